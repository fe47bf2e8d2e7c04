use super::*;

const KIND: Option<&str> = Some("application/x-www-form-urlencoded");

#[track_caller]
fn parsed(body: &str) -> Form {
    Form::parse(KIND, body.as_bytes()).unwrap()
}

#[test]
fn parameters_are_decoded_and_an_empty_one_is_left_out() {
    let form =
        parsed("grant_type=client_credentials&scope=a+b%20c&state=&x&resource=https%3A%2F%2Fa&resource=https://b");
    assert_eq!(form.get("grant_type"), Some("client_credentials"));
    assert_eq!(form.get("scope"), Some("a b c"));
    assert_eq!((form.get("state"), form.get("x"), form.get("none")), (None, None, None));
    assert_eq!(form.all("resource").collect::<Vec<_>>(), ["https://a", "https://b"]);
    assert!(Form::parse(Some("Application/X-WWW-Form-Urlencoded; charset=UTF-8"), b"a=b").is_ok());
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for (body, why) in [
        ("scope=a&scope=b", "stands twice"),
        ("scope=&scope=b", "stands twice"),
        ("scope=a&sco%70e=b", "stands twice"),
        ("client_id=acme&client_id=acme", "stands twice"),
        ("scope=%ff", "not UTF-8"),
        ("scope=%00", "control characters"),
        ("sc%0aope=a", "control characters"),
    ] {
        assert!(Form::parse(KIND, body.as_bytes()).unwrap_err().contains(why), "{body}");
    }
    for kind in [None, Some("application/json"), Some("multipart/form-data"), Some("")] {
        assert!(Form::parse(kind, b"a=b").unwrap_err().contains("x-www-form-urlencoded"), "{kind:?}");
    }
}

#[test]
fn form_is_bounded() {
    let many: String = (0..65).map(|n| format!("p{n}=1&")).collect();
    assert!(Form::parse(KIND, many.as_bytes()).unwrap_err().contains("too many"));
    let long = format!("a={}", "x".repeat(LONGEST_FORM));
    assert!(Form::parse(KIND, long.as_bytes()).unwrap_err().contains("too long"));
    assert!(Form::parse(KIND, b"").is_ok_and(|form| form == Form::default()));
}
