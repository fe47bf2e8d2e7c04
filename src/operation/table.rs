//! All operations of all routes, ready to be asked on every request.

use super::paths::{ClashKind, Paths};
use super::{Operation, OperationId, RouteName};
use crate::document::Problems;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The operations of all routes. Immutable; a changed document makes a new one.
#[derive(Debug, Default)]
pub struct Operations {
    operations: Vec<Operation>,
    /// Of each operation.
    owners: Vec<RouteId>,
    by_id: BTreeMap<OperationId, usize>,
    routes: HashMap<RouteName, RouteId>,
    paths: Vec<Paths>,
}

/// A route of the [`Operations`] that handed it out; it means nothing to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(usize);

/// What a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'t, 'p> {
    pub operation: &'t Operation,
    /// Values of the path parameters in order: bytes of the path as they stand there, never empty, without `/`.
    pub params: Vec<&'p str>,
}

impl<'t, 'p> Resolved<'t, 'p> {
    /// Name and value of each path parameter, in order.
    pub fn named(&self) -> impl Iterator<Item = (&'t Arc<str>, &'p str)> + '_ {
        self.operation.params().iter().zip(self.params.iter().copied())
    }
}

impl Operations {
    /// Puts the operations of all routes together. What clashes is reported with both places and left out, so a
    /// table that is built with errors is not for use.
    pub fn build(routes: Vec<(RouteName, Vec<Operation>)>, problems: &mut Problems) -> Operations {
        let mut table = Operations::default();
        for (name, operations) in routes {
            let route = table.add_route(name);
            for operation in operations {
                table.add(route, operation, problems);
            }
        }
        table
    }

    /// The handle of a route, to be kept beside the route and used for [`resolve`](Self::resolve).
    pub fn route(&self, name: &RouteName) -> Option<RouteId> {
        self.routes.get(name).copied()
    }

    /// The operation that a request is. `method` is compared with case, `path` is canonical and starts with `/`;
    /// `/v1/orders/` is not `/v1/orders`. No allocation unless the operation has parameters.
    pub fn resolve<'t, 'p>(&'t self, route: RouteId, method: &str, path: &'p str) -> Option<Resolved<'t, 'p>> {
        let mut params = Vec::new();
        let methods = self.paths.get(route.0)?.find(path, &mut params)?;
        let (_, index) = methods.iter().find(|(known, _)| known.as_str() == method)?;
        Some(Resolved { operation: self.operations.get(*index)?, params })
    }

    pub fn get(&self, id: &OperationId) -> Option<&Operation> {
        self.find(id.as_str())
    }

    /// The route that an operation is of.
    pub fn route_of(&self, id: &OperationId) -> Option<RouteId> {
        self.by_id.get(id.as_str()).and_then(|index| self.owners.get(*index)).copied()
    }

    /// All operations, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.by_id.values().filter_map(|index| self.operations.get(*index))
    }

    pub fn len(&self) -> usize {
        self.operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn find(&self, id: &str) -> Option<&Operation> {
        self.by_id.get(id).and_then(|index| self.operations.get(*index))
    }

    fn add_route(&mut self, name: RouteName) -> RouteId {
        *self.routes.entry(name).or_insert_with(|| {
            self.paths.push(Paths::default());
            RouteId(self.paths.len() - 1)
        })
    }

    fn add(&mut self, RouteId(route): RouteId, operation: Operation, problems: &mut Problems) {
        if let Some(first) = self.find(operation.id.as_str()) {
            problems.push(operation.place.error(
                operation.id.as_str(),
                format!("the operation id is used twice; the first is at {}", first.place),
                "give each operation its own `operationId` (OpenAPI) or `id` (config)",
            ));
            return;
        }
        let index = self.operations.len();
        let Some(paths) = self.paths.get_mut(route) else { return };
        if let Err(clash) = paths.insert(&operation.template, &operation.method, index) {
            let Some(first) = self.operations.get(clash.with) else {
                return;
            };
            let (reason, fix) = describe(clash.kind, first, &operation);
            problems.push(operation.place.error(operation.id.as_str(), reason, fix));
            return;
        }
        self.by_id.insert(operation.id.clone(), index);
        self.operations.push(operation);
        self.owners.push(RouteId(route));
    }
}

fn describe(kind: ClashKind, first: &Operation, second: &Operation) -> (String, &'static str) {
    let (method, path) = (&second.method, &second.template);
    match kind {
        ClashKind::Duplicate => (
            format!(
                "`{method} {path}` is the same as `{}`, `{method} {}` at {}",
                first.id, first.template, first.place
            ),
            "keep one of them",
        ),
        ClashKind::Ambiguous => (
            format!(
                "`{method} {path}` and `{}`, `{method} {}` at {}, both match some paths and neither is more specific",
                first.id, first.template, first.place
            ),
            "change one of the paths, or leave one of the operations out: a path must be one operation",
        ),
    }
}

#[cfg(test)]
mod tests;
