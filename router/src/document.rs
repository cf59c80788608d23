use std::{fmt, sync::Arc};

use bytes::Bytes;
use jobgate_sdk::Runner;
use jobgate_yaml::{Fault, Faults};

use crate::ProjectPath;

mod content;
mod cursor;
mod gitlab;
mod native;
mod tree;

pub(crate) use content::{Content, ImageSpec, Origin, ServiceSpec, VariableSpec};

use cursor::{Cursor, Input};
use tree::Original;

/// Largest input that callers should let in: 4 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// A job as it was submitted: its bytes as they came, and what the view is made of.
///
/// Holds secrets. Its `Debug` form shows none.
#[derive(Clone)]
pub struct JobDocument {
    bytes: Bytes,
    content: Arc<Content>,
}

impl JobDocument {
    /// The document as it came. An element of a list is the part of the list that it was; only an element of a YAML list has no
    /// text of its own, and is written anew as JSON.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whose job it is.
    #[must_use]
    pub fn project(&self) -> &ProjectPath {
        &self.content.project
    }

    /// Name of the job.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.content.name.as_deref()
    }

    /// Id of the job in the system it came from.
    #[must_use]
    pub fn source_id(&self) -> Option<&str> {
        self.content.source_id.as_deref()
    }

    /// Whether the job may be run again when its runner is lost while it runs.
    #[must_use]
    pub fn retry_on_lost(&self) -> bool {
        self.content.retry_on_lost
    }

    pub(crate) fn content(&self) -> &Arc<Content> {
        &self.content
    }
}

impl fmt::Debug for JobDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobDocument")
            .field("project", &self.content.project)
            .field("bytes", &format_args!("[redacted]"))
            .finish_non_exhaustive()
    }
}

/// Reads job documents: one, a list of them, or several JSON documents one after the other; JSON or YAML. `name` is what
/// people know the input by; `limit` is the most bytes it may have, [`MAX_DOCUMENT_BYTES`] where nothing else is said.
///
/// # Errors
///
/// All faults, each with line, column and path. None quotes a value.
pub fn read_documents(bytes: &Bytes, name: &str, limit: usize) -> Result<Vec<JobDocument>, Faults> {
    let input = Input::new(name, text(bytes, name, limit)?);
    let parts = tree::parse(&input);
    let many = parts.len() > 1 || input.text.trim_start().starts_with(['[', '-']);
    if parts.is_empty() && input.is_clean() {
        input.note(tree::Mark::Unknown, "there is no job document in it");
    }
    let mut documents = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let root = Cursor::root(&part.root, many.then_some(index), &input);
        if let Some(content) = content::read(&root) {
            let bytes = match part.original {
                Original::Slice(range) => bytes.slice(range),
                Original::Json(text) => text.into(),
            };
            documents.push(JobDocument { bytes, content: Arc::new(content) });
        }
    }
    input.finish(documents)
}

/// Reads the description of a runner, JSON or YAML: the fields of the question's `runner`.
///
/// # Errors
///
/// All faults, each with line, column and path.
pub fn read_runner(bytes: &Bytes, name: &str) -> Result<Runner, Faults> {
    let input = Input::new(name, text(bytes, name, MAX_DOCUMENT_BYTES)?);
    let parts = tree::parse(&input);
    let mut runner = None;
    if let [part] = parts.as_slice() {
        runner = native::runner(&Cursor::root(&part.root, None, &input));
    }
    if runner.is_none() && input.is_clean() {
        input.note(tree::Mark::Unknown, "expected one runner");
    }
    input.finish(runner.unwrap_or_default())
}

fn text<'a>(bytes: &'a Bytes, name: &str, limit: usize) -> Result<&'a str, Faults> {
    if bytes.len() > limit {
        let message = format!("{} bytes are more than the {limit} allowed here", bytes.len());
        return Err(Fault::new(name, message).into());
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("it is not UTF-8 from byte {} on", error.valid_up_to());
        Fault::new(name, message).into()
    })
}
