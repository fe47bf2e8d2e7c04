//! Any text as an OpenAPI document.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::document::Problems;
use partnergate::operation::{Operations, RouteName, openapi};

fuzz_target!(|text: &str| {
    let mut problems = Problems::new();
    let operations = openapi::load("fuzz.yaml", text, None, &mut problems);
    let route = RouteName::parse("r").expect("a valid name");
    let table = Operations::build(vec![(route.clone(), operations)], &mut problems);
    if let Some(route) = table.route(&route) {
        let _ = table.resolve(route, "GET", "/a/b/c");
    }
});
