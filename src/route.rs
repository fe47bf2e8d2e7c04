//! Which group of endpoints serves a host and path prefix.
//!
//! In: routes of the config. Out: [`Routes::find`], the longest prefix on whole segments, or none. Must never: fall
//! through to a default for a host or path that nobody configured.

use crate::document::Problems;
use crate::name::UpstreamName;
use crate::operation::{RouteId, RouteName};
use crate::request::Host;
use std::collections::HashMap;
use std::time::Duration;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: RouteName,
    /// File and line, for messages.
    pub place: String,
    pub hosts: Vec<Host>,
    /// `/` or `/segments`, without a trailing slash.
    pub prefix: String,
    pub upstream: UpstreamName,
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// How long an upgraded connection or a stream may be silent.
    pub stream_idle: Duration,
    pub forward: Forward,
    pub token: TokenUse,
    pub api_key: TokenUse,
    /// Handle into the operations of the same snapshot.
    pub operations: Option<RouteId>,
}

/// What the upstream is told of the client's certificate besides `X-Partner-Id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// RFC 9440 `Client-Cert`.
    pub client_cert: bool,
    /// RFC 9440 `Client-Cert-Chain`; only beside `Client-Cert`.
    pub client_cert_chain: bool,
    /// Envoy's `X-Forwarded-Client-Cert`.
    pub xfcc: bool,
    /// The signed `X-Partner-Assertion`.
    pub assertion: bool,
    /// The access token of the request.
    pub token: bool,
}

/// What a route makes of an access token, where the gateway issues them, or of an API key, where partners have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// A request may come with one, and is then held to it.
    Accepted,
    /// A request without one is denied.
    Required,
    /// What is in the field is the upstream's business.
    Ignored,
}

impl TokenUse {
    pub const NAMES: &'static [&'static str] = &["accepted", "required", "ignored"];

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "accepted" => Some(TokenUse::Accepted),
            "required" => Some(TokenUse::Required),
            "ignored" => Some(TokenUse::Ignored),
            _ => None,
        }
    }
}

/// All routes, ready to be asked on every request.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    /// Per host, longest prefix first.
    by_host: HashMap<Host, Vec<usize>>,
}

/// Whether a host is served at all, and by which route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Route(&'a Route),
    /// The host is served, the path is not.
    NoPath,
    /// Nobody configured this host.
    NoHost,
}

impl<'a> Found<'a> {
    pub fn route(self) -> Option<&'a Route> {
        match self {
            Found::Route(route) => Some(route),
            Found::NoPath | Found::NoHost => None,
        }
    }
}

impl Routes {
    /// Two routes with the same host and prefix are a problem.
    pub fn build(routes: Vec<Route>, problems: &mut Problems) -> Routes {
        let mut table = Routes { routes, by_host: HashMap::new() };
        for (n, route) in table.routes.iter().enumerate() {
            for host in &route.hosts {
                let list = table.by_host.entry(host.clone()).or_default();
                let same = list.iter().filter_map(|m| table.routes.get(*m)).find(|r| r.prefix == route.prefix);
                if let Some(other) = same {
                    problems.file(
                        &route.place,
                        format!(
                            "routes `{}` and `{}` have the same host `{host}` and prefix `{}`",
                            other.name, route.name, route.prefix
                        ),
                        Some("give one of them another prefix"),
                    );
                }
                list.push(n);
            }
        }
        let lengths: Vec<usize> = table.routes.iter().map(|r| r.prefix.len()).collect();
        for list in table.by_host.values_mut() {
            list.sort_by_key(|n| std::cmp::Reverse(lengths.get(*n).copied().unwrap_or(0)));
        }
        table
    }

    pub fn find(&self, host: &Host, path: &str) -> Found<'_> {
        let Some(list) = self.by_host.get(host) else { return Found::NoHost };
        let route = list.iter().filter_map(|n| self.routes.get(*n)).find(|r| under(path, &r.prefix));
        route.map_or(Found::NoPath, Found::Route)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

/// Whether `path` is `prefix` or below it, on whole segments.
fn under(path: &str, prefix: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, host: &str, prefix: &str) -> Route {
        Route {
            name: RouteName::parse(name).unwrap(),
            hosts: vec![Host::parse(host).unwrap()],
            prefix: prefix.into(),
            upstream: UpstreamName::parse("u").unwrap(),
            max_body: 1,
            stream_idle: Duration::from_secs(1),
            token: TokenUse::Accepted,
            api_key: TokenUse::Accepted,
            forward: Forward::default(),
            place: String::new(),
            operations: None,
        }
    }

    fn find<'a>(routes: &'a Routes, host: &str, path: &str) -> &'a str {
        match routes.find(&Host::parse(host).unwrap(), path) {
            Found::Route(route) => route.name.as_str(),
            Found::NoPath => "no path",
            Found::NoHost => "no host",
        }
    }

    #[test]
    fn the_longest_prefix_on_whole_segments_serves() {
        let mut problems = Problems::new();
        let routes = Routes::build(
            vec![
                route("v1", "a.example", "/v1"),
                route("orders", "a.example", "/v1/orders"),
                route("all", "b.example", "/"),
            ],
            &mut problems,
        );
        assert!(problems.is_empty());
        for (host, path, expected) in [
            ("a.example", "/v1", "v1"),
            ("a.example", "/v1/", "v1"),
            ("a.example", "/v1/orders", "orders"),
            ("a.example", "/v1/orders/7", "orders"),
            ("a.example", "/v1/ordersx", "v1"),
            ("a.example", "/v10", "no path"),
            ("b.example", "/anything", "all"),
            ("c.example", "/v1", "no host"),
        ] {
            assert_eq!(find(&routes, host, path), expected, "{host}{path}");
        }
    }

    #[test]
    fn the_same_host_and_prefix_twice_is_a_problem() {
        let mut problems = Problems::new();
        Routes::build(vec![route("x", "a.example", "/v1"), route("y", "a.example", "/v1")], &mut problems);
        assert!(problems.to_string().contains("`x` and `y`"));
    }
}
