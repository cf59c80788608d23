//! Asks the chain of admission controllers about each job and hands out admitted jobs only.

mod document;
mod image;
mod path;
mod view;

pub use document::{JobDocument, MAX_DOCUMENT_BYTES, read_documents, read_runner};
pub use path::{GroupPath, PathError, ProjectPath, Scope};
pub use view::{Expose, UnknownExpose, View, ViewRejection, question_from_document, view};
