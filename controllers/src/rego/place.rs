//! Reads the engine's drawings of errors back into file, line, column and message.

use jobgate_yaml::{Fault, Place};

use super::replica::SourceFile;

/// An error of the engine, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read<'a> {
    pub(crate) file: &'a str,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) message: String,
}

/// Takes apart `\n--> FILE:LINE:COLUMN\n … \nerror: MESSAGE`. `None`: it has no place.
pub(crate) fn read(error: &str) -> Option<Read<'_>> {
    let at = error.lines().find_map(|line| line.strip_prefix("--> "))?;
    let mut parts = at.rsplitn(3, ':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    let file = parts.next()?;
    let message = error.rsplit_once("error: ").map_or(error, |(_, message)| message);
    Some(Read { file, line, column, message: message.split_whitespace().collect::<Vec<_>>().join(" ") })
}

/// The engine's error as a fault of one of `files`.
pub(crate) fn fault(error: &str, files: &[SourceFile], whole: &str) -> Fault {
    let Some(read) = read(error) else {
        return Fault::new(whole, error.split_whitespace().collect::<Vec<_>>().join(" "));
    };
    match files.iter().find(|file| file.path.display().to_string() == read.file) {
        Some(file) => file.source().fault(Place { line: read.line, column: read.column.max(1) }, read.message),
        None => Fault::new(read.file, read.message),
    }
}
