package partnergate_test

import rego.v1

# The request at a time of the partner's wall clock, under a grant with these windows.
scheduled_at(windows, weekday, hour, minute) := object.union(
	conditioned({"schedule": windows}),
	{"time": {"local": {"weekday": weekday, "hour": hour, "minute": minute}}},
)

closed := denied(["outside-schedule"])

# Ends of a window

test_window_just_before_its_beginning if {
	data.partnergate.decision == closed with input as scheduled_at(["mon-fri 08:00-18:00"], "monday", 7, 59)
}

test_window_at_its_beginning if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon-fri 08:00-18:00"], "monday", 8, 0)
}

test_window_in_its_last_minute if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon-fri 08:00-18:00"], "monday", 17, 59)
}

test_window_at_its_end if {
	data.partnergate.decision == closed with input as scheduled_at(["mon-fri 08:00-18:00"], "monday", 18, 0)
}

test_window_of_one_minute if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon 08:00-08:01"], "monday", 8, 0)
}

test_window_of_one_minute_is_over_after_it if {
	data.partnergate.decision == closed with input as scheduled_at(["mon 08:00-08:01"], "monday", 8, 1)
}

test_whole_day_at_its_beginning if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon 00:00-24:00"], "monday", 0, 0)
}

test_whole_day_in_its_last_minute if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon 00:00-24:00"], "monday", 23, 59)
}

test_whole_day_is_over_at_midnight if {
	data.partnergate.decision == closed with input as scheduled_at(["mon 00:00-24:00"], "tuesday", 0, 0)
}

test_whole_day_is_not_the_day_before if {
	data.partnergate.decision == closed with input as scheduled_at(["mon 00:00-24:00"], "sunday", 23, 59)
}

test_window_to_the_end_of_the_day if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon 22:00-24:00"], "monday", 23, 59)
}

# Days

test_each_day_of_a_range if {
	every weekday in ["monday", "tuesday", "wednesday", "thursday", "friday"] {
		data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon-fri 08:00-18:00"], weekday, 12, 0)
	}
}

test_days_outside_a_range if {
	every weekday in ["saturday", "sunday"] {
		data.partnergate.decision == closed with input as scheduled_at(["mon-fri 08:00-18:00"], weekday, 12, 0)
	}
}

test_range_around_the_end_of_the_week if {
	every weekday in ["friday", "saturday", "sunday", "monday"] {
		data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["fri-mon 08:00-18:00"], weekday, 12, 0)
	}
}

test_outside_a_range_around_the_end_of_the_week if {
	every weekday in ["tuesday", "wednesday", "thursday"] {
		data.partnergate.decision == closed with input as scheduled_at(["fri-mon 08:00-18:00"], weekday, 12, 0)
	}
}

test_range_of_one_day if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["sun-sun 08:00-18:00"], "sunday", 12, 0)
}

test_single_day_is_no_other_day if {
	every weekday in ["tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] {
		data.partnergate.decision == closed with input as scheduled_at(["mon 08:00-18:00"], weekday, 12, 0)
	}
}

# Over midnight

test_over_midnight_before_its_beginning if {
	data.partnergate.decision == closed with input as scheduled_at(["sat 22:00-02:00"], "saturday", 21, 59)
}

test_over_midnight_in_the_evening if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["sat 22:00-02:00"], "saturday", 22, 0)
}

test_over_midnight_in_the_morning_after if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["sat 22:00-02:00"], "sunday", 1, 59)
}

test_over_midnight_at_its_end if {
	data.partnergate.decision == closed with input as scheduled_at(["sat 22:00-02:00"], "sunday", 2, 0)
}

test_over_midnight_does_not_begin_on_the_day_before if {
	data.partnergate.decision == closed with input as scheduled_at(["sat 22:00-02:00"], "saturday", 1, 0)
}

test_over_midnight_does_not_begin_on_the_day_after if {
	data.partnergate.decision == closed with input as scheduled_at(["sat 22:00-02:00"], "sunday", 23, 0)
}

test_over_midnight_from_the_last_day_of_the_week_to_the_first if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["sun 22:00-02:00"], "monday", 1, 0)
}

test_over_midnight_of_a_range_ends_on_the_day_after_it if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon-fri 22:00-02:00"], "saturday", 1, 0)
}

test_over_midnight_of_a_range_has_not_begun_on_the_day_before_it if {
	data.partnergate.decision == closed with input as scheduled_at(["mon-fri 22:00-02:00"], "monday", 1, 0)
}

test_over_midnight_to_midnight if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon 22:00-00:00"], "monday", 23, 59)
}

test_over_midnight_to_midnight_ends_there if {
	data.partnergate.decision == closed with input as scheduled_at(["mon 22:00-00:00"], "tuesday", 0, 0)
}

# Several windows and grants

test_windows_add_to_one_another if {
	data.partnergate.decision == allowed("grant-1") with input as scheduled_at(["mon-fri 08:00-18:00", "sat 22:00-02:00"], "sunday", 1, 0)
}

test_between_two_windows if {
	data.partnergate.decision == closed with input as scheduled_at(["mon 08:00-12:00", "mon 13:00-18:00"], "monday", 12, 0)
}

test_windows_of_one_grant_do_not_open_another if {
	data.partnergate.decision == denied(["grant-expired", "outside-schedule"]) with input as granted([
		grant_but({"ends_ns": 400, "conditions": {"schedule": ["mon 08:00-18:00"]}}),
		grant_but({"id": "grant-2", "conditions": {"schedule": ["tue 08:00-18:00"]}}),
	])
}

test_windows_are_on_the_wall_clock_of_the_partner if {
	# 09:30 in UTC, 10:30 where the partner is.
	data.partnergate.decision == allowed("grant-1") with input as conditioned({"schedule": ["mon 10:00-11:00"]})
}

test_windows_are_not_on_the_wall_clock_of_the_gateway if {
	data.partnergate.decision == closed with input as conditioned({"schedule": ["mon 09:00-10:00"]})
}

# What cannot be read never opens

test_no_windows if {
	data.partnergate.decision == closed with input as conditioned({"schedule": []})
}

test_windows_of_another_form if {
	# On Monday at 10:30 each of them would be open if it were read generously.
	every windows in [
		["mon  08:00-18:00"],
		["mon 08:00-18:00 "],
		["mon,tue 08:00-18:00"],
		["MON 08:00-18:00"],
		["monday 08:00-18:00"],
		["sun-mon-tue 08:00-18:00"],
		["- 08:00-18:00"],
		["mon- 08:00-18:00"],
		["-mon 08:00-18:00"],
		["mon 8:00-18:00"],
		["mon 08:00-1800"],
		["mon 08-18"],
		["mon 08:00:00-18:00"],
		["mon 08:00-18:00-19:00"],
		["mon 08:00-18:60"],
		["mon 08:00-24:01"],
		["mon 00:00-99:99"],
		["mon -1:00-18:00"],
		["mon +8:00-18:00"],
		["mon 24:00-18:00"],
		["mon 10:30-10:30"],
		["mon"],
		["08:00-18:00"],
		[""],
		[7],
		[null],
		[["mon 08:00-18:00"]],
		"mon 08:00-18:00",
		{"a": "mon 08:00-18:00"},
		true,
		7,
		null,
	] {
		data.partnergate.decision == closed with input as conditioned({"schedule": windows})
	}
}

test_window_that_cannot_be_read_beside_one_that_can if {
	data.partnergate.decision == allowed("grant-1") with input as conditioned({"schedule": ["whenever", "mon 08:00-18:00"]})
}

test_without_a_local_time if {
	every fact in ["time/local", "time/local/weekday", "time/local/hour", "time/local/minute"] {
		data.partnergate.decision == closed with input as json.remove(conditioned({"schedule": ["mon-sun 00:00-24:00"]}), [fact])
	}
}

test_weekday_that_there_is_not if {
	data.partnergate.decision == closed with input as scheduled_at(["mon-sun 00:00-24:00"], "someday", 12, 0)
}
