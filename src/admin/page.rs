//! Lists that come as a whole or in pages.
//!
//! In: what of a list is asked for, and its rows. Out: so many of them, and where the next page begins. Must never: miss
//! a row that was there all the while, whatever comes and goes between two pages.

use super::answer::{Answer, sent, wrong};
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most things of one page.
const MAX_PAGE: usize = 1_000;

/// A part of a list: so many of what is behind an id. All of it where no limit is named.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct PageQuery {
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// What the last page gave as `next`.
    after: Option<String>,
}

impl PageQuery {
    /// # Errors
    /// No page is as long, or what it begins behind is none of what `parse` reads.
    pub fn read<I>(&self, parse: impl FnOnce(&str) -> Result<I, String>) -> Result<Asked<I>, Response> {
        let limit = match self.limit {
            Some(limit) if !(1..=MAX_PAGE).contains(&limit) => {
                return Err(wrong(&format!("limit: {limit} is not between 1 and {MAX_PAGE}")));
            }
            limit => limit.unwrap_or(usize::MAX),
        };
        let after = self.after.as_deref().map(parse).transpose().map_err(|reason| wrong(&reason))?;
        Ok(Asked { limit, after })
    }
}

/// What of a list is asked for.
pub(super) struct Asked<I> {
    limit: usize,
    pub after: Option<I>,
}

impl<I> Asked<I> {
    pub fn is_whole(&self) -> bool {
        self.limit == usize::MAX && self.after.is_none()
    }

    /// How many rows have to be known, so that it is known whether there are more.
    pub fn most(&self) -> usize {
        self.limit.saturating_add(1)
    }

    /// The first of the rows and, where there are more, the id behind which those are. All rows are behind `after`.
    pub fn page<T>(
        &self,
        rows: impl IntoIterator<Item = T>,
        id: impl FnOnce(&T) -> String,
    ) -> (Vec<T>, Option<String>) {
        let mut page: Vec<T> = rows.into_iter().take(self.most()).collect();
        let more = page.len() > self.limit;
        page.truncate(self.limit);
        let next = page.last().filter(|_| more).map(id);
        (page, next)
    }

    /// The form that was asked for: as a whole it has no `next`.
    pub fn form<T>(&self, list: T, next: Option<String>) -> Listed<T> {
        if self.is_whole() { Listed::Whole(list) } else { Listed::Page(Page { list, next }) }
    }

    pub fn listed<T: Serialize>(&self, list: T, next: Option<String>) -> Answer<Listed<T>> {
        sent(self.form(list, next))
    }
}

/// A list where no page was asked for, or one of its pages.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Listed<T> {
    Whole(T),
    Page(Page<T>),
}

/// A part of a list.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page<T> {
    #[serde(flatten)]
    pub list: T,
    /// What the next page begins behind (`after`); null where this is the last one.
    pub next: Option<String>,
}
