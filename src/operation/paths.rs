//! The paths of one route as a tree of segments: a request's path goes down it to the most specific template.
//!
//! Our own tree and not `matchit`, because the answer decides what a partner may call: `matchit` does not come back
//! from a suffix (`/{x}.json/a` hides `/foo.json/b` of `/{y}/b`), accepts `/a/{x}/c` beside `/a/b/{y}` although
//! `/a/b/c` is both, and panics on the 26th parameter.

use super::template::{Affix, Overlap, Segment, Template};
use http::Method;
use std::collections::BTreeMap;

/// A table of templates; each has one slot per method that holds the index of an operation.
#[derive(Debug, Default)]
pub(super) struct Paths {
    root: Node,
}

/// Why a template cannot stand beside another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clash {
    /// Index of the operation that was there before.
    pub with: usize,
    pub kind: ClashKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClashKind {
    /// The same method and the same paths, whatever the parameters are called.
    Duplicate,
    /// Some path is both, and neither template is the more specific.
    Ambiguous,
}

impl Paths {
    /// # Errors
    /// The first operation of the same method that this one cannot be told apart from; nothing is inserted then.
    pub fn insert(&mut self, template: &Template, method: &Method, operation: usize) -> Result<(), Clash> {
        if let Some(clash) = self.root.clash(template.segments(), Overlap::Same, method) {
            return Err(clash);
        }
        let mut node = &mut self.root;
        for segment in template.segments() {
            node = node.child(segment);
        }
        node.operations.push((method.clone(), operation));
        Ok(())
    }

    /// The operations of the most specific template that matches `path`, one per method. The values of its
    /// parameters are pushed to `params`, which is left as it was when nothing matches.
    pub fn find<'p>(&self, path: &'p str, params: &mut Vec<&'p str>) -> Option<&[(Method, usize)]> {
        self.root.find(path.strip_prefix('/')?, params).map(|node| node.operations.as_slice())
    }
}

/// Where the templates that begin alike stand after some segments.
#[derive(Debug, Default)]
struct Node {
    fixed: BTreeMap<Box<str>, Node>,
    /// Most specific first; see [`order`].
    params: Vec<(Affix, Node)>,
    /// Operations whose template ends here.
    operations: Vec<(Method, usize)>,
}

impl Node {
    fn child(&mut self, segment: &Segment) -> &mut Node {
        match segment {
            Segment::Fixed(text) => self.fixed.entry(text.clone()).or_default(),
            Segment::Param(affix) => {
                let at = match self.params.binary_search_by(|(known, _)| order(known).cmp(&order(affix))) {
                    Ok(at) => at,
                    Err(at) => {
                        self.params.insert(at, (affix.clone(), Node::default()));
                        at
                    }
                };
                #[expect(clippy::indexing_slicing, reason = "the search found `at` or the insert made it")]
                &mut self.params[at].1
            }
        }
    }

    /// Goes back to the next best segment where a better one led nowhere. Every node stands for one position in the
    /// path and is entered once at most, so the work is bounded by the table, whatever the path.
    fn find<'p>(&self, rest: &'p str, params: &mut Vec<&'p str>) -> Option<&Node> {
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        if let Some(found) = self.fixed.get(segment).and_then(|node| node.end_or_find(rest, params)) {
            return Some(found);
        }
        for (affix, node) in &self.params {
            let Some(value) = affix.value(segment) else { continue };
            params.push(value);
            if let Some(found) = node.end_or_find(rest, params) {
                return Some(found);
            }
            params.pop();
        }
        None
    }

    fn end_or_find<'p>(&self, rest: Option<&'p str>, params: &mut Vec<&'p str>) -> Option<&Node> {
        match rest {
            Some(rest) => self.find(rest, params),
            None => (!self.operations.is_empty()).then_some(self),
        }
    }

    /// Looks for an operation of `method` below here that `segments` cannot stand beside; `so_far` is how the
    /// segments above lie to those of this node.
    fn clash(&self, segments: &[Segment], so_far: Overlap, method: &Method) -> Option<Clash> {
        let Some((segment, rest)) = segments.split_first() else {
            let kind = match so_far {
                Overlap::Same => ClashKind::Duplicate,
                Overlap::Crossing => ClashKind::Ambiguous,
                Overlap::Narrower | Overlap::Wider => return None,
            };
            let (_, with) = self.operations.iter().find(|(known, _)| known == method)?;
            return Some(Clash { with: *with, kind });
        };
        let fixed_clash = match segment {
            Segment::Fixed(text) => self.fixed.get(text).and_then(|node| node.clash(rest, so_far, method)),
            Segment::Param(affix) => self.fixed.iter().find_map(|(text, node)| {
                affix.value(text)?;
                node.clash(rest, so_far.and(Overlap::Wider), method)
            }),
        };
        fixed_clash.or_else(|| {
            self.params.iter().find_map(|(affix, node)| {
                let here = segment.overlap(affix)?;
                node.clash(rest, so_far.and(here), method)
            })
        })
    }
}

/// The order in which parameters of one position are tried: more fixed text first, so that a narrower one always
/// comes before a wider one; then more in front; then by text, so that the order does not depend on the document's.
fn order(affix: &Affix) -> (std::cmp::Reverse<(usize, usize)>, &str, &str) {
    let (prefix, suffix) = (affix.prefix.len(), affix.suffix.len());
    (std::cmp::Reverse((prefix + suffix, prefix)), &affix.prefix, &affix.suffix)
}
