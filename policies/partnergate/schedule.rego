# When: windows on the wall clock of the partner's time zone, from the condition
# "schedule" of a grant.
#
# A window such as "mon-fri 08:00-18:00" holds its first minute and not its last: at
# 08:00 it is open, at 18:00 it is closed. "00:00-24:00" is a whole day. A window
# that ends at or before its beginning goes over midnight, and its days are those on
# which it begins: "sat 22:00-02:00" ends on Sunday. Days may go around the end of
# the week: "fri-mon".
#
# Where clocks are set forward, a window that lies in the hour that is left out does
# not open on that day; where they are set back, a window in the hour that comes twice
# is open both times.
package partnergate

import rego.v1

# METADATA
# title: Outside the schedule
# description: |
#   A grant for the operation exists, and none of its windows is open now, or none
#   can be read.
# custom:
#   related: [NHI5:2025, PR.AA-05]
denials contains "outside-schedule" if {
	# Access at hours in which nobody works is access that nobody watches.
	some grant in rejected_grants
	windows = grant.conditions.schedule
	not scheduled(windows)
}

# METADATA
# title: One of the windows is open
# description: Windows add to one another. A list without windows never opens.
scheduled(windows) if {
	is_array(windows)
	some window in windows
	open(window)
}

# METADATA
# title: The window is open
# description: |
#   The last time at which it would have begun was on one of its days, and it has not
#   ended since. Undefined, and so never open, where it is not exactly of the form.
open(window) if {
	is_string(window)
	[days, hours] := split(window, " ")
	[from, until] := split(hours, "-")
	begins := minute(from)
	ends := minute(until)
	begins < 1440
	begins != ends

	# Both from the minute at which it begins; over midnight as well.
	last := (((ends - 1) - begins) + 1440) % 1440
	since := ((minute_of_day - begins) + 1440) % 1440
	since <= last

	minutes := (((day_of_week + 7) * 1440) + minute_of_day) - since
	among(floor(minutes / 1440), days)
}

# METADATA
# title: Minute of a day
# description: Of "HH:MM", up to "24:00".
minute(text) := of_day if {
	[hour, minutes] := split(text, ":")
	of_day := (two_digits[hour] * 60) + two_digits[minutes]
	of_day <= 1440
}

# METADATA
# title: The day is among the days
# description: Of "mon", or of "mon-fri", counted from the first day onwards.
among(day, days) if {
	ends := split(days, "-")
	count(ends) <= 2
	first := days_of_week[ends[0]]
	last := days_of_week[ends[count(ends) - 1]]
	((day - first) + 7) % 7 <= ((last - first) + 7) % 7
}

# METADATA
# title: Day of the week
# description: On the partner's wall clock, counted from Monday.
day_of_week := days_of_week[substring(input.time.local.weekday, 0, 3)]

# METADATA
# title: Minute of the day now
# description: On the partner's wall clock.
minute_of_day := (input.time.local.hour * 60) + input.time.local.minute

# METADATA
# title: Days of the week
# description: As they are written in windows, counted from Monday.
days_of_week := {"mon": 0, "tue": 1, "wed": 2, "thu": 3, "fri": 4, "sat": 5, "sun": 6}

# METADATA
# title: Two digits
# description: Hours and minutes as they are written. Anything else is no number.
two_digits := {
	"00": 0, "01": 1, "02": 2, "03": 3, "04": 4, "05": 5, "06": 6, "07": 7, "08": 8, "09": 9,
	"10": 10, "11": 11, "12": 12, "13": 13, "14": 14, "15": 15, "16": 16, "17": 17, "18": 18, "19": 19,
	"20": 20, "21": 21, "22": 22, "23": 23, "24": 24, "25": 25, "26": 26, "27": 27, "28": 28, "29": 29,
	"30": 30, "31": 31, "32": 32, "33": 33, "34": 34, "35": 35, "36": 36, "37": 37, "38": 38, "39": 39,
	"40": 40, "41": 41, "42": 42, "43": 43, "44": 44, "45": 45, "46": 46, "47": 47, "48": 48, "49": 49,
	"50": 50, "51": 51, "52": 52, "53": 53, "54": 54, "55": 55, "56": 56, "57": 57, "58": 58, "59": 59,
}
