use axum::extract;
use http::Uri;

use crate::faces::error::{ApiError, shown};

/// The parameters of a query, all of them known.
#[derive(Debug)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Reads a query. A parameter that is not `known` is refused by name: a filter that is not applied shows what was not
    /// asked for.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let pairs = extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::invalid("the query cannot be read"))?;
        let unknown: Vec<_> = pairs.0.iter().filter(|(key, _)| !known.contains(&&**key)).collect();
        if unknown.is_empty() {
            return Ok(Self(pairs.0));
        }
        let faults = unknown.into_iter().map(|(key, _)| {
            let key = shown(key);
            match jobgate_yaml::nearest(&key, known.iter().copied()) {
                Some(near) => format!("unknown parameter `{key}`; did you mean `{near}`?"),
                None => format!("unknown parameter `{key}`"),
            }
        });
        Err(ApiError::invalid("the query has parameters that are not known here").with_faults(faults))
    }

    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn one(&self, key: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(key);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(ApiError::invalid(format!("`{key}` may be given once"))),
        }
    }

    /// A number of at least 1; 0 when it is not given.
    pub(super) fn number(&self, key: &str) -> Result<usize, ApiError> {
        let Some(text) = self.one(key)? else { return Ok(0) };
        match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(ApiError::invalid(format!("{key}: `{}` is not a number of at least 1", shown(text)))),
        }
    }
}
