//! What commands print, and how they end.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How the program ends. Scripts depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: done; the job was admitted, the tests passed, the controller conforms.
    Good = 0,
    /// 1: the answer is no: a job was rejected, failed, canceled or dropped; a test failed; a controller does not conform.
    No = 1,
    /// 2: there is no answer: input or configuration is broken, a policy could not be evaluated, the router cannot be reached,
    /// the command line makes no sense.
    Broken = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command gave up.
#[derive(Debug)]
pub struct Failure {
    message: String,
    help: Option<String>,
    quiet: bool,
}

/// What a command comes to.
pub type Ended = Result<Exit, Failure>;

impl Failure {
    /// In words that say what went wrong, and where; may have several lines.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), help: None, quiet: false }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says it on stderr; its end is always [`Exit::Broken`].
    pub(crate) fn print(&self, colour: bool) -> Exit {
        if !self.quiet {
            let mut text = format!("{} {}\n", paint(colour, Style::Bad, "error:"), self.message);
            if let Some(help) = &self.help {
                text.push_str(&format!("  help: {help}\n"));
            }
            // Nobody is left to be told.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        Exit::Broken
    }
}

/// A reader that has gone, as `head` does, is not worth a word.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        Self { quiet, ..Self::new(format_args!("cannot write the output: {error}")) }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<jobgate_yaml::Faults> for Failure {
    fn from(faults: jobgate_yaml::Faults) -> Self {
        match faults.iter().count() {
            1 => Self::new(faults),
            count => Self::new(format_args!("{count} faults\n{faults}")),
        }
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a word is coloured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Admitted, passed, online.
    Good,
    /// Rejected, failed, offline.
    Bad,
    /// Worth a look.
    Doubtful,
    /// Beside the point.
    Faint,
    /// Above the rest.
    Strong,
}

/// Standard output of a command: tables and lines for people, or JSON.
pub struct Output {
    json: bool,
    colour: bool,
    width: Option<u16>,
    out: Box<dyn Write + Send>,
}

impl Output {
    /// Standard output of this process.
    #[must_use]
    pub fn stdout(json: bool, colour: Colour) -> Self {
        let stdout = io::stdout();
        let colour = wants_colour(colour, stdout.is_terminal());
        let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten();
        let width = size.map(|size| size.ws_col).filter(|width| *width > 0);
        Self { json, colour, width, out: Box::new(stdout) }
    }

    /// Whether to print JSON, and nothing but JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a value as indented JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|error| Failure::new(error.to_string()))?;
        text.push(b'\n');
        self.write(&text)
    }

    /// Prints a value as one line of JSON, for streams of them.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(value).map_err(|error| Failure::new(error.to_string()))?;
        text.push(b'\n');
        self.write(&text)
    }

    /// Prints a line for people.
    pub fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Prints rows under headings, as wide as the terminal; `nothing` when there are none.
    pub fn table<R>(
        &mut self,
        headings: &[&str],
        rows: impl IntoIterator<Item = R>,
        nothing: &str,
    ) -> Result<(), Failure>
    where
        R: IntoIterator<Item = String>,
    {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(headings.iter().map(|heading| heading.to_uppercase()));
        for row in rows {
            table.add_row(row.into_iter().map(|cell| clean(&cell)));
        }
        if table.is_empty() {
            return self.line(nothing);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.max(40));
        }
        let text: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        let (heading, rows) = text.split_first().map_or(("", text.as_slice()), |(first, rest)| (first, rest));
        let heading = self.paint(Style::Strong, heading);
        self.line(heading)?;
        rows.iter().try_for_each(|row| self.line(row))
    }

    /// Prints what is known of one thing, a key and its value in each row; values wrap within the terminal.
    pub fn pairs(&mut self, rows: &[[String; 2]]) -> Result<(), Failure> {
        let indent = rows.iter().map(|[key, _]| key.chars().count()).max().unwrap_or(0) + 2;
        for [key, value] in rows {
            let room = self.width.map_or(usize::MAX, |width| usize::from(width.max(40)).saturating_sub(indent));
            let mut key = key.as_str();
            for line in wrapped(&clean(value), room) {
                let line = if key == "state" { self.state(&line) } else { line };
                self.line(format!("{key:<indent$}{line}").trim_end())?;
                key = "";
            }
        }
        Ok(())
    }

    /// Colours a word where colours are wanted.
    #[must_use]
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        paint(self.colour, style, text)
    }

    /// Colours a word by what it says.
    #[must_use]
    pub fn state(&self, word: &str) -> String {
        let style = match word {
            "admitted" | "success" | "passed" | "online" | "holds" => Style::Good,
            "rejected" | "failed" | "dropped" | "canceled" | "broken" | "offline" | "rejects" | "fails" => Style::Bad,
            "warns" | "warning" | "exempted" | "draining" | "silent" | "tainted" | "advice" => Style::Doubtful,
            _ => return word.to_owned(),
        };
        self.paint(style, word)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }
}

/// Whether stderr takes colours.
pub(crate) fn stderr_colour(colour: Colour) -> bool {
    wants_colour(colour, io::stderr().is_terminal())
}

/// Nothing that a job or a controller said may steer the terminal, or stretch over lines.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// In lines of at most so many characters, broken between words where that is possible. At least one line.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<_> = word.chars().collect();
        while let Some(line) = lines.last_mut() {
            let taken = line.chars().count();
            let gap = usize::from(taken > 0);
            if taken + gap + word.len() <= room {
                if gap > 0 {
                    line.push(' ');
                }
                line.extend(&word);
                break;
            }
            if taken == 0 {
                // Longer than a line.
                line.extend(word.drain(..room.max(1)));
            }
            lines.push(String::new());
        }
    }
    lines
}

fn wants_colour(colour: Colour, terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
    }
}

fn paint(colour: bool, style: Style, text: impl Display) -> String {
    let code = match style {
        Style::Good => "32",
        Style::Bad => "31",
        Style::Doubtful => "33",
        Style::Faint => "2",
        Style::Strong => "1",
    };
    match colour {
        true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        false => text.to_string(),
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("json", &self.json).field("colour", &self.colour).finish_non_exhaustive()
    }
}

/// What `print` prints without colours, on a terminal of this width.
#[cfg(test)]
pub(crate) fn printed(width: Option<u16>, print: impl FnOnce(&mut Output)) -> String {
    let kept = tests::Kept::default();
    print(&mut Output { json: false, colour: false, width, out: Box::new(kept.clone()) });
    kept.text()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn tables_are_plain_and_control_characters_harmless() {
        let rows = [["a", "one"], ["long-name", "\u{1b}[31mred\nline"]].map(|row| row.map(str::to_owned));
        let text = printed(None, |output| output.table(&["name", "what"], rows, "none").unwrap());
        assert_eq!(text, "NAME       WHAT\na          one\nlong-name   [31mred line\n");
        let none = printed(None, |output| output.table(&["name"], Vec::<Vec<String>>::new(), "no jobs").unwrap());
        assert_eq!(none, "no jobs\n");
    }

    #[test]
    fn tables_fit_the_terminal() {
        let rows = [vec!["id".to_owned(), "word ".repeat(40)]];
        let text = printed(Some(60), |output| output.table(&["name", "reason"], rows, "").unwrap());
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn pairs_wrap_beside_their_keys() {
        let rows =
            [["id", "7"], ["state", "failed"], ["", &format!("{} x", "word ".repeat(12))], ["url", &"u".repeat(80)]]
                .map(|row| row.map(str::to_owned));
        let text = printed(Some(40), |output| output.pairs(&rows).unwrap());
        let long = "u".repeat(33);
        let expected = format!(
            "id     7\nstate  failed\n       word word word word word word\n       word word word word word word x\nurl    \
             {long}\n       {long}\n       {}\n",
            "u".repeat(14)
        );
        assert_eq!(text, expected);
        let wide = printed(None, |output| output.pairs(&rows).unwrap());
        assert!(wide.lines().count() == 4 && wide.contains("word x\n"), "{wide}");
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_any_other_failure_is_not() {
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).quiet);
        assert!(!Failure::from(io::Error::from(io::ErrorKind::StorageFull)).quiet);
    }
}
