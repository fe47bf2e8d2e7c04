use super::*;
use crate::operation::{OperationKind, Place, Template};
use http::Method;
use proptest::prelude::*;

fn operation(line: u32, id: &str, method: &str, template: &str, tags: &[&str]) -> Operation {
    Operation {
        id: OperationId::parse(id).unwrap(),
        method: method.parse().unwrap(),
        template: Template::parse(template).unwrap(),
        tags: tags.iter().map(|t| (*t).into()).collect(),
        upgrade: None,
        kind: OperationKind::Http,
        place: Place { file: "api.yaml".into(), line },
    }
}

/// One route `r` with operations `id method template`, one a line.
fn table(lines: &[&str]) -> (Operations, String) {
    let operations = lines.iter().zip(1..).map(|(text, line)| {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap();
        operation(line, word(), word(), word(), &[])
    });
    let mut problems = Problems::new();
    let table = Operations::build(vec![(name("r"), operations.collect())], &mut problems);
    (table, problems.to_string())
}

fn name(text: &str) -> RouteName {
    RouteName::parse(text).unwrap()
}

fn resolve(table: &Operations, method: &str, path: &str) -> Option<String> {
    let resolved = table.resolve(table.route(&name("r")).unwrap(), method, path)?;
    let params: String = resolved.named().map(|(name, value)| format!(" {name}={value}")).collect();
    Some(format!("{}{params}", resolved.operation.id))
}

#[test]
fn a_request_is_the_most_specific_operation() {
    let (table, problems) = table(&[
        "orders.read GET /v1/orders/{id}",
        "orders.search GET /v1/orders/search",
        "orders.json GET /v1/orders/{id}.json",
        "items.read GET /v1/orders/{order}/items/{item}",
        "search.help GET /v1/orders/search/help",
        "version GET /v{n}/version",
        "root GET /",
    ]);
    assert_eq!(problems, "");
    for (path, expected) in [
        ("/v1/orders/7", Some("orders.read id=7")),
        ("/v1/orders/search", Some("orders.search")),
        ("/v1/orders/searching", Some("orders.read id=searching")),
        ("/v1/orders/7.json", Some("orders.json id=7")),
        ("/v1/orders/.json", Some("orders.read id=.json")),
        ("/v1/orders/7%2E", Some("orders.read id=7%2E")),
        ("/v1/orders/search/items/2", Some("items.read order=search item=2")),
        ("/v1/orders/search/help", Some("search.help")),
        ("/v12/version", Some("version n=12")),
        ("/", Some("root")),
    ] {
        assert_eq!(resolve(&table, "GET", path).as_deref(), expected, "{path}");
    }
}

#[test]
fn what_is_not_listed_is_no_operation() {
    let (table, _) = table(&["orders.list GET /v1/orders", "orders.read GET /v1/orders/{id}", "slash GET /v1/x/"]);
    for path in
        ["/v1/orders/", "/v1", "/v1/", "/V1/orders", "/v1/orders/7/", "/v1//7", "/v1/x", "v1/orders", "", "/", "*"]
    {
        assert_eq!(resolve(&table, "GET", path), None, "{path}");
    }
    assert_eq!(resolve(&table, "GET", "/v1/x/").as_deref(), Some("slash"));
    for method in ["get", "HEAD", "OPTIONS", "POST", "", "GET "] {
        assert_eq!(resolve(&table, method, "/v1/orders"), None, "{method}");
    }
    assert_eq!(table.route(&name("other")), None);
}

#[test]
fn a_route_knows_only_its_own_operations() {
    let routes = vec![
        (name("a"), vec![operation(1, "a.read", "GET", "/x", &[])]),
        (name("b"), vec![operation(2, "b.read", "GET", "/x", &[])]),
        (name("c"), vec![]),
    ];
    let mut problems = Problems::new();
    let table = Operations::build(routes, &mut problems);
    assert!(problems.is_empty(), "{problems}");
    let id = |route: &str| {
        let route = table.route(&name(route)).unwrap();
        table.resolve(route, "GET", "/x").map(|r| r.operation.id.to_string())
    };
    assert_eq!((id("a"), id("b"), id("c")), (Some("a.read".into()), Some("b.read".into()), None));
    assert_eq!(table.len(), 2);
}

#[test]
fn methods_of_one_path_may_name_its_parameters_differently() {
    let (table, problems) = table(&["read GET /o/{id}", "change PUT /o/{order}"]);
    assert_eq!(problems, "");
    assert_eq!(resolve(&table, "GET", "/o/7").as_deref(), Some("read id=7"));
    assert_eq!(resolve(&table, "PUT", "/o/7").as_deref(), Some("change order=7"));
}

#[test]
fn the_path_decides_before_the_method() {
    let (table, problems) = table(&["read GET /o/{id}", "search POST /o/search"]);
    assert_eq!(problems, "");
    assert_eq!(resolve(&table, "GET", "/o/search"), None);
}

#[test]
fn a_duplicate_operation_names_both_places() {
    let (_, problems) = table(&["a GET /o/{id}", "b GET /o/{order}"]);
    assert_eq!(
        problems,
        "error: api.yaml:2: `b`: `GET /o/{order}` is the same as `a`, `GET /o/{id}` at api.yaml:1\n    fix: keep one of them"
    );
}

#[test]
fn an_ambiguous_pair_of_paths_names_both_places() {
    for (first, second) in [("/a/{x}/c", "/a/b/{y}"), ("/f/{x}.json", "/f/v{n}"), ("/{x}b/{y}", "/{x}/{y}.z")] {
        let (_, problems) = table(&[&format!("a GET {first}"), &format!("b GET {second}")]);
        let expected = format!("api.yaml:2: `b`: `GET {second}` and `a`, `GET {first}` at api.yaml:1, both match");
        assert!(problems.contains(&expected), "{problems}");
        // No request is both when the methods differ.
        assert_eq!(table(&[&format!("a GET {first}"), &format!("b PUT {second}")]).1, "");
    }
}

#[test]
fn an_id_that_is_used_twice_names_both_places_across_routes() {
    let routes = vec![
        (name("a"), vec![operation(3, "read", "GET", "/x", &[])]),
        (name("b"), vec![operation(9, "read", "GET", "/y", &[])]),
    ];
    let mut problems = Problems::new();
    Operations::build(routes, &mut problems);
    let text = problems.to_string();
    assert!(text.contains("api.yaml:9: `read`: the operation id is used twice; the first is at api.yaml:3"), "{text}");
}

#[test]
fn a_grant_is_expanded_to_the_ids_that_exist() {
    let operations = vec![
        operation(1, "invoices.read", "GET", "/i/{id}", &["billing", "read"]),
        operation(2, "invoices.create", "POST", "/i", &["billing"]),
        operation(3, "orders.read", "GET", "/o/{id}", &["read"]),
    ];
    let table = Operations::build(vec![(name("r"), operations)], &mut Problems::new());
    let expand = |pattern: &str| {
        table.expand(pattern).map(|ids| ids.iter().map(OperationId::as_str).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(expand("orders.read").as_deref(), Ok("orders.read"));
    assert_eq!(expand("invoices.*").as_deref(), Ok("invoices.create invoices.read"));
    assert_eq!(expand("tag:read").as_deref(), Ok("invoices.read orders.read"));
    for (pattern, expected) in [
        ("invoice.read", "`invoice.read` is not an operation; did you mean `invoices.read`?"),
        ("zebra", "`zebra` is not an operation"),
        ("", "`` is not an operation"),
        ("payments.*", "`payments.*` matches no operation: no id starts with `payments.`"),
        ("tag:biling", "`tag:biling` matches no operation; did you mean `tag:billing`?"),
        ("tag:", "`tag:` matches no operation"),
        ("*", "`*` stands for every operation"),
        ("*.read", "`*.read` has a `*` that is not at its end"),
        ("invoices.**", "has a `*` that is not at its end"),
    ] {
        assert!(expand(pattern).unwrap_err().starts_with(expected) || expand(pattern).unwrap_err().contains(expected));
    }
    assert_eq!(table.get(&OperationId::parse("orders.read").unwrap()).unwrap().place.line, 3);
    assert_eq!(
        table.iter().map(|o| o.id.as_str()).collect::<Vec<_>>(),
        ["invoices.create", "invoices.read", "orders.read"]
    );
}

/// The rule written down once more, without a tree: all templates of the path, the most specific first, and of that
/// one the operation for the method.
fn oracle(table: &Operations, method: &str, path: &str) -> Option<String> {
    let matching = |o: &Operation| fit(o.template.as_str(), path).map(|(rank, params)| (rank, params, o.clone()));
    let mut all: Vec<_> = table.iter().filter_map(matching).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let best = all.first()?.0.clone();
    let (_, params, operation) = all.into_iter().find(|(rank, _, o)| *rank == best && o.method == method)?;
    let params: String = operation.params().iter().zip(params).map(|(n, v)| format!(" {n}={v}")).collect();
    Some(format!("{}{params}", operation.id))
}

/// Per segment: fixed first, then parameters by how much fixed text they have, in front before behind.
type Rank = Vec<(usize, std::cmp::Reverse<(usize, usize)>, String)>;

fn fit(template: &str, path: &str) -> Option<(Rank, Vec<String>)> {
    let (templates, paths): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    if templates.len() != paths.len() {
        return None;
    }
    let (mut rank, mut params) = (Rank::new(), Vec::new());
    for (t, p) in templates.into_iter().zip(paths) {
        match (t.find('{'), t.find('}')) {
            (Some(open), Some(close)) => {
                let (prefix, suffix) = (&t[..open], &t[close + 1..]);
                if p.len() <= prefix.len() + suffix.len() || !p.starts_with(prefix) || !p.ends_with(suffix) {
                    return None;
                }
                params.push(p[prefix.len()..p.len() - suffix.len()].to_owned());
                let fixed = std::cmp::Reverse((prefix.len() + suffix.len(), prefix.len()));
                rank.push((1, fixed, format!("{prefix}/{suffix}")));
            }
            _ if t == p => rank.push((0, std::cmp::Reverse((0, 0)), String::new())),
            _ => return None,
        }
    }
    Some((rank, params))
}

fn any_operations() -> impl Strategy<Value = Vec<(Method, String)>> {
    let segment =
        prop::sample::select(vec!["a", "b", "ab", "aab", "", "{}", "{}", "a{}", "{}b", "a{}b", "aa{}", "{}ab"]);
    let template = prop::collection::vec(segment, 1..4).prop_map(|segments| {
        let last = segments.len() - 1;
        let named = segments.iter().enumerate().map(|(n, s)| match *s {
            "" if n < last => "c".to_owned(),
            s => s.replace("{}", &format!("{{p{n}}}")),
        });
        named.fold(String::new(), |path, segment| path + "/" + &segment)
    });
    let method = prop::sample::select(vec![Method::GET, Method::GET, Method::GET, Method::PUT]);
    prop::collection::vec((method, template), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn resolving_agrees_with_the_rule_written_naively(
        operations in any_operations(),
        paths in prop::collection::vec("(/(a|b|ab|aab|aabb|abab|c|x|\\.|)){0,4}", 30),
    ) {
        let lines: Vec<_> = operations.iter().enumerate().map(|(n, (m, t))| format!("o{n} {m} {t}")).collect();
        let (table, _) = table(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for path in &paths {
            for method in ["GET", "PUT", "DELETE"] {
                prop_assert_eq!(resolve(&table, method, path), oracle(&table, method, path), "{} {}", method, path);
            }
        }
    }

    #[test]
    fn no_request_is_two_operations_of_which_neither_is_more_specific(
        operations in any_operations(),
        paths in prop::collection::vec("(/(a|b|ab|aab|aabb|abab|c|x)){1,3}", 30),
    ) {
        let lines: Vec<_> = operations.iter().enumerate().map(|(n, (m, t))| format!("o{n} {m} {t}")).collect();
        let (table, _) = table(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for path in &paths {
            let gets = table.iter().filter(|o| o.method == Method::GET);
            let ranks: Vec<Rank> = gets.filter_map(|o| Some(fit(o.template.as_str(), path)?.0)).collect();
            for (n, a) in ranks.iter().enumerate() {
                for b in ranks.iter().skip(n + 1) {
                    let narrower = a.iter().zip(b).all(|(a, b)| (a.0, a.1) <= (b.0, b.1));
                    let wider = a.iter().zip(b).all(|(a, b)| (a.0, a.1) >= (b.0, b.1));
                    prop_assert!(narrower != wider, "{}: {:?} and {:?}", path, a, b);
                }
            }
        }
    }

    #[test]
    fn no_request_makes_resolving_panic(operations in any_operations(), method in ".{0,8}", path in ".{0,40}") {
        let lines: Vec<_> = operations.iter().enumerate().map(|(n, (m, t))| format!("o{n} {m} {t}")).collect();
        let (table, _) = table(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        resolve(&table, &method, &path);
        resolve(&table, "GET", &format!("/{path}"));
    }
}
