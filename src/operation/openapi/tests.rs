use super::*;
use proptest::prelude::*;

/// As a billing team writes it: YAML, 3.0, variables in the server, a shared path item, a WebSocket.
const BILLING: &str = r#"
openapi: 3.0.3
info:
  title: Billing
  version: 2.4.0
servers:
  - url: https://{region}.api.example.com/{version}
    description: Production
    variables:
      region:
        default: eu
        enum: [eu, us]
      version:
        default: v1
paths:
  /invoices:
    summary: All invoices
    parameters:
      - {name: page, in: query, schema: {type: integer}}
    get:
      operationId: invoices.list
      tags: [billing, read]
      responses:
        200: {description: ok}
    head:
      operationId: invoices.count
    post:
      operationId: invoices.create
      tags: [billing]
  /invoices/{invoiceId}:
    get:
      operationId: invoices.read
      tags: [billing, read]
  /invoices/{invoiceId}.pdf:
    get:
      tags: [billing]
  /events:
    servers:
      - url: wss://stream.example.com/live
    get:
      operationId: events.open
      x-partnergate-upgrade: websocket
  x-internal: true
components:
  schemas:
    Invoice: {type: object}
"#;

/// As a generator writes it: JSON, 3.1, shared path items, webhooks.
const ORDERS: &str = r##"{
  "openapi": "3.1.0",
  "info": {"title": "Orders", "version": "1"},
  "servers": [{"url": "/orders-api/"}],
  "paths": {
    "/orders/{id}": {
      "get": {"operationId": "orders.read"},
      "patch": {"operationId": "orders.change", "servers": [{"url": "https://write.example.com/w"}]}
    },
    "/ping": {"$ref": "#/components/pathItems/ping"},
    "/orders": {"$ref": "#/paths/~1all%2Dorders"},
    "/all-orders": {"get": {"tags": ["read"]}}
  },
  "components": {"pathItems": {"ping": {"$ref": "#/components/pathItems/alive"}, "alive": {"get": {"operationId": "ping"}}}},
  "webhooks": {"orderPaid": {"trace": {}, "post": {"operationId": "not an operation"}}}
}"##;

fn read(text: &str) -> (Vec<String>, String) {
    read_at(text, None)
}

fn read_at(text: &str, base_path: Option<&str>) -> (Vec<String>, String) {
    let mut problems = Problems::new();
    let operations = load("api.yaml", text, base_path, &mut problems);
    let lines = operations.iter().map(|o| format!("{} = {} {} @{}", o.id, o.method, o.template, o.place.line));
    (lines.collect(), problems.to_string())
}

/// What is said about a document that is fine but for these paths.
fn problems_of(paths: &str) -> String {
    read(&format!("openapi: 3.0.3\npaths:\n{paths}")).1
}

#[test]
fn a_yaml_document_becomes_operations_with_their_places() {
    let (operations, problems) = read(BILLING);
    assert_eq!(
        operations,
        [
            "invoices.list = GET /v1/invoices @20",
            "invoices.count = HEAD /v1/invoices @25",
            "invoices.create = POST /v1/invoices @27",
            "invoices.read = GET /v1/invoices/{invoiceId} @31",
            "get:/v1/invoices/{invoiceId}.pdf = GET /v1/invoices/{invoiceId}.pdf @35",
            "events.open = GET /live/events @40",
        ]
    );
    assert_eq!(
        problems,
        "warning: api.yaml:35: `paths./invoices/{invoiceId}.pdf.get`: has no `operationId`: it is called \
         `get:/v1/invoices/{invoiceId}.pdf`, which changes when the path does\n    fix: add an `operationId`"
    );
}

#[test]
fn tags_parameters_and_upgrades_are_kept() {
    let operations = load("api.yaml", BILLING, None, &mut Problems::new());
    let read = operations.iter().find(|o| o.id.as_str() == "invoices.read").unwrap();
    assert_eq!(read.tags.iter().map(|t| &**t).collect::<Vec<_>>(), ["billing", "read"]);
    assert_eq!(read.params().iter().map(|p| &**p).collect::<Vec<_>>(), ["invoiceId"]);
    assert_eq!(read.upgrade, None);
    assert_eq!(operations.last().unwrap().upgrade, Some("websocket".into()));
}

#[test]
fn a_json_document_with_local_references_becomes_operations() {
    let (operations, problems) = read(ORDERS);
    assert_eq!(
        operations,
        [
            "orders.read = GET /orders-api/orders/{id} @7",
            "orders.change = PATCH /w/orders/{id} @8",
            "ping = GET /orders-api/ping @10",
            "get:/orders-api/orders = GET /orders-api/orders @11",
            "get:/orders-api/all-orders = GET /orders-api/all-orders @12",
        ]
    );
    assert!(!problems.contains("error"), "{problems}");
}

#[test]
fn the_base_path_of_the_config_takes_the_place_of_all_servers() {
    let two = BILLING.replacen("servers:\n", "servers:\n  - url: /other\n", 1);
    assert!(read(&two).1.contains("set `base_path`"));
    let (operations, problems) = read_at(&two, Some("/api/"));
    assert!(operations.contains(&"events.open = GET /api/events @41".to_owned()), "{operations:?}");
    assert!(!problems.contains("error"), "{problems}");
    assert!(read_at(BILLING, Some("api")).1.contains("the configured `base_path` is wrong: `api` does not start"));
}

#[test]
fn only_openapi_3_0_and_3_1_are_read() {
    for (text, expected) in [
        ("swagger: \"2.0\"", "error: api.yaml:1:10: `swagger`: this is a Swagger 2.0 document"),
        ("openapi: 3.2.0", "OpenAPI version `3.2.0` is not known"),
        ("openapi: 3.0.x", "OpenAPI version `3.0.x` is not known"),
        ("openapi: 3.1", "expected a version as text, found a number"),
        ("paths: {}", "this is no OpenAPI document"),
        ("", "this is no OpenAPI document"),
        ("[]", "expected an OpenAPI document, found a list"),
        ("a: [", "not valid YAML"),
    ] {
        let (operations, problems) = read(text);
        assert!(operations.is_empty() && problems.contains(expected), "{text}\n{problems}");
    }
    assert_eq!(read("openapi: 3.1.1\npaths: {/a: {get: {operationId: a}}}"), (vec!["a = GET /a @2".into()], "".into()));
}

#[test]
fn a_document_without_paths_is_warned_about() {
    for text in ["openapi: 3.1.0", "openapi: 3.0.0\npaths: {}", "openapi: 3.0.0\npaths:\n"] {
        let (_, problems) = read(text);
        assert!(problems.starts_with("warning: ") && problems.contains("has no paths"), "{problems}");
    }
}

#[test]
fn a_reference_into_another_document_is_refused_with_its_line() {
    for target in ["other.yaml", "./other.yaml#/paths/~1a", "https://example.com/api.yaml", "//h/x#/y"] {
        let text = problems_of(&format!("  /a:\n    $ref: '{target}'\n"));
        let expected = format!("error: api.yaml:4:11: `$ref`: `{target}` is in another document");
        assert!(text.contains(&expected), "{text}");
        assert_eq!(text.matches(target).count(), 1, "{text}");
    }
    // Wherever it is, once for each target.
    let text = problems_of(
        "  /a:\n    get:\n      operationId: a\n      parameters: [{$ref: 'p.yaml#/x'}]\n      responses:\n        \
         '200': {content: {application/json: {schema: {$ref: s.yaml}}}}\n        \
         '404': {content: {application/json: {schema: {$ref: s.yaml}}}}\n",
    );
    for (place, target) in [("6:27", "p.yaml#/x"), ("8:61", "s.yaml")] {
        let expected = format!("error: api.yaml:{place}: `$ref`: `{target}` is in another document");
        assert!(text.contains(&expected) && text.matches(target).count() == 1, "{text}");
    }
    // What is shown or said is not meant.
    let harmless = "  /a:\n    get:\n      operationId: a\n      x-more: {$ref: x.yaml}\n      responses:\n        \
                    '200': {content: {application/json: {example: {$ref: a.yaml}}}}\n";
    assert_eq!(problems_of(harmless), "");
}

#[test]
fn references_that_lead_nowhere_are_refused() {
    for (paths, expected) in [
        ("  /a: {$ref: '#/paths/~1b'}\n  /b: {$ref: '#/paths/~1a'}\n", "leads back to itself"),
        ("  /a: {$ref: '#/paths/~1a'}\n", "leads back to itself"),
        ("  /a: {$ref: '#/paths/~1b'}\n", "points to nothing"),
        ("  /a: {$ref: 7}\n", "expected text, found a number"),
        ("  /a: {$ref: '#/openapi'}\n", "expected a table of methods, found text"),
        ("  /a: {$ref: '#/x', get: {}}\n", "`paths./a.get`: stands beside a `$ref`"),
        ("  /a: {get: {$ref: '#/x'}}\n", "no `$ref` on an operation"),
        ("  $ref: paths.yaml\n", "no `$ref` in the place of all paths"),
    ] {
        let text = problems_of(paths);
        assert!(text.contains(expected), "{paths}\n{text}");
    }
    let chain: String = (0..30).map(|n| format!("  /{n}: {{$ref: '#/paths/~1{}'}}\n", n + 1)).collect();
    assert!(problems_of(&chain).contains("more than 16 other"));
}

#[test]
fn what_is_no_operation_is_reported_with_line_and_fix() {
    for (paths, expected) in [
        ("  /a:\n    trace: {}\n", "error: api.yaml:4:5: `paths./a.trace`: the gateway never serves TRACE"),
        ("  /a:\n    GET: {}\n", "error: api.yaml:4:5: `paths./a.GET`: methods are written in lower case"),
        ("  /a:\n    fetch: {}\n", "warning: api.yaml:4:5: `paths./a.fetch`: is no method"),
        ("  /a:\n    get:\n", "expected a table, found nothing"),
        ("  /a: 1\n", "expected a table of methods, found a number"),
        ("  a: {}\n", "error: api.yaml:3:3: `paths.a`: `a` does not start with `/`"),
        ("  /{a}{b}: {}\n", "two parameters in the segment"),
        ("  /a:\n    get: {operationId: a b}\n", "error: api.yaml:4:24: `paths./a.get.operationId`: `a b` is not"),
        ("  /a:\n    get: {operationId: [x]}\n", "is not an operation id"),
        ("  /a:\n    get: {operationId: x, tags: x}\n", "expected a list of text"),
        ("  /a:\n    get: {operationId: x, tags: [1]}\n", "a tag is text"),
        (
            "  /a:\n    get: {operationId: x, x-partnergate-upgrade: h2c}\n",
            "would carry requests that are not decided on",
        ),
        ("  /a:\n    get: {operationId: x, x-partnergate-upgrade: a b}\n", "is no protocol that an Upgrade field"),
        ("  /a:\n    post: {operationId: x, x-partnergate-upgrade: websocket}\n", "an upgrade starts with a GET"),
        ("  /a:\n    get: {operationId: x, x-partnergate-upgrad: websocket}\n", "did you mean `x-partnergate-upgrade`"),
        ("  /a:\n    x-partnergate-upgrade: websocket\n", "has no meaning on a path"),
    ] {
        let text = problems_of(paths);
        assert!(text.contains(expected), "{paths}\n{text}");
    }
    assert!(read("openapi: 3.0.3\npaths: []").1.contains("expected a table of paths"));
    let long = problems_of(&format!("  /{}: {{get: {{}}}}\n", "x".repeat(300)));
    assert!(long.contains("fix: add an `operationId`"), "{long}");
}

/// Documents of the words that matter, in places where they may or may not belong.
fn any_document() -> impl Strategy<Value = serde_json::Value> {
    let word = prop::sample::select(vec![
        "openapi",
        "swagger",
        "3.0.3",
        "3.1.0",
        "paths",
        "servers",
        "url",
        "variables",
        "default",
        "get",
        "post",
        "trace",
        "Get",
        "operationId",
        "tags",
        "$ref",
        "x-partnergate-upgrade",
        "websocket",
        "/",
        "/a",
        "/a/{id}",
        "/{x}{y}",
        "/v{n}/",
        "#/paths/~1a",
        "#/paths/~1a~1{id}",
        "#",
        "#/",
        "%",
        "https://{x}/{y}",
        "{",
        "//",
        "x",
        "",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        word.clone().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    let key = prop_oneof![8 => word.prop_map(str::to_owned), 1 => ".{0,8}"];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            4 => prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_makes_the_loader_panic(paths in any_document(), servers in any_document(), other in any_document()) {
        for document in [
            serde_json::json!({"openapi": "3.1.0", "paths": paths, "servers": servers, "components": other}),
            serde_json::json!({"openapi": "3.0.3", "paths": {"/a": paths, "/a/{id}": servers, "/b": {"get": other}}}),
            other,
        ] {
            let mut problems = Problems::new();
            let operations = load("api.json", &document.to_string(), None, &mut problems);
            let name = crate::operation::RouteName::parse("r").unwrap();
            let table = crate::operation::Operations::build(vec![(name.clone(), operations)], &mut problems);
            table.resolve(table.route(&name).unwrap(), "GET", "/a/b");
        }
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in ".{0,60}", yaml in "[a-z0-9/{}:\\[\\]&*!,#$ \n'\"-]{0,60}") {
        load("api.yaml", &text, None, &mut Problems::new());
        load("api.yaml", &format!("openapi: 3.0.3\npaths:\n  /a:\n    {yaml}\n"), Some(&text), &mut Problems::new());
    }
}
