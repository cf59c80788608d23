use std::{fmt, sync::Arc};

/// An input and the name people know it by.
#[derive(Clone)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
    quotable: bool,
}

/// A place in an input, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// One thing that is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    source: Arc<str>,
    place: Option<Place>,
    message: String,
    help: Option<String>,
    snippet: Option<String>,
}

/// Everything that is wrong with an input: never empty, in the order of places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Source {
    /// An input whose lines may be quoted in faults.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into(), quotable: true }
    }

    /// An input that may hold secrets: faults say where, but never quote it.
    #[must_use]
    pub fn secret(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { quotable: false, ..Self::new(name, text) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether faults may quote it.
    #[must_use]
    pub fn is_quotable(&self) -> bool {
        self.quotable
    }

    /// A fault at a place of this input.
    #[must_use]
    pub fn fault(&self, place: Place, message: impl Into<String>) -> Fault {
        let line = self.text.lines().nth((place.line as usize).saturating_sub(1));
        let snippet = line.filter(|line| self.quotable && !line.trim().is_empty()).map(|line| snippet(line, place));
        Fault { source: self.name.clone(), place: Some(place), message: message.into(), help: None, snippet }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Fault {
    /// A fault of an input as a whole, as `no such file`.
    #[must_use]
    pub fn new(source: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
        Self { source: source.into(), place: None, message: message.into(), help: None, snippet: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Name of the input.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where in it, if it is about one place.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Everything on one line, without the snippet: for answers over the wire and logs.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.head();
        if let Some(help) = &self.help {
            line.push_str(" (");
            line.push_str(help);
            line.push(')');
        }
        line
    }

    fn head(&self) -> String {
        match self.place {
            Some(Place { line, column }) => format!("{}:{line}:{column}: {}", self.source, self.message),
            None => format!("{}: {}", self.source, self.message),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head())?;
        if let Some(snippet) = &self.snippet {
            write!(f, "\n{snippet}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl Faults {
    /// `None` when there is nothing wrong.
    #[must_use]
    pub fn collect(faults: impl IntoIterator<Item = Fault>) -> Option<Self> {
        let mut faults: Vec<_> = faults.into_iter().collect();
        // Stable: faults of one place stay in the order they were found in.
        faults.sort_by(|a, b| (&a.source, a.place).cmp(&(&b.source, b.place)));
        Some(Self(faults)).filter(|Self(faults)| !faults.is_empty())
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Adds those of another input.
    #[must_use]
    pub fn and(mut self, more: impl IntoIterator<Item = Fault>) -> Self {
        self.0.extend(more);
        self
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

const SNIPPET_WIDTH: usize = 160;

/// The line, and a caret under the place.
fn snippet(line: &str, place: Place) -> String {
    let number = place.line.to_string();
    let shown: String = line.chars().take(SNIPPET_WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = format!("  {number} | {}", shown.trim_end());
    let column = (place.column as usize).saturating_sub(1);
    if column < SNIPPET_WIDTH {
        text.push_str(&format!("\n  {:width$} | {:column$}^", "", "", width = number.len()));
    }
    text
}
