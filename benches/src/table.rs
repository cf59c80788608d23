//! What was measured, for people.

use crate::measure::Effort;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) measure: String,
    pub(crate) floor: String,
    pub(crate) ours: String,
    pub(crate) ratio: String,
    pub(crate) target: String,
    /// `None` where there is no target.
    pub(crate) met: Option<bool>,
}

pub(crate) struct Table {
    rows: Vec<Row>,
    effort: Effort,
    load: String,
}

impl Row {
    /// A row whose ratio must not be above `most`.
    pub(crate) fn at_most(measure: impl Into<String>, floor: f64, ours: f64, ratio: f64, most: f64) -> Self {
        Self {
            measure: measure.into(),
            floor: time(floor),
            ours: time(ours),
            ratio: format!("{ratio:.2}"),
            target: format!("≤ {most}"),
            met: Some(ratio <= most),
        }
    }

    /// A row of rates whose ratio must not be below `least`.
    pub(crate) fn at_least(measure: impl Into<String>, floor: f64, ours: f64, ratio: f64, least: f64) -> Self {
        Self {
            measure: measure.into(),
            floor: rate(floor),
            ours: rate(ours),
            ratio: format!("{ratio:.2}"),
            target: format!("≥ {least}"),
            met: Some(ratio >= least),
        }
    }

    /// A row against a number instead of a ratio.
    pub(crate) fn against(
        measure: impl Into<String>,
        floor: Option<String>,
        ours: impl Into<String>,
        target: impl Into<String>,
        met: bool,
    ) -> Self {
        let none = || "–".to_owned();
        Self {
            measure: measure.into(),
            floor: floor.unwrap_or_else(none),
            ours: ours.into(),
            ratio: none(),
            target: target.into(),
            met: Some(met),
        }
    }

    /// The same with a ratio to its floor.
    pub(crate) fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = format!("{ratio:.2}");
        self
    }

    /// The same without a target: for orientation.
    pub(crate) fn beside(mut self) -> Self {
        self.met = None;
        self.target = "–".into();
        self
    }

    fn cells(&self, effort: Effort) -> [&str; 6] {
        let met = match self.met.filter(|_| effort == Effort::Full) {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        [&self.measure, &self.floor, &self.ours, &self.ratio, &self.target, met]
    }
}

impl Table {
    pub(crate) fn begin(effort: Effort) -> Self {
        Self { rows: Vec::new(), effort, load: load() }
    }

    pub(crate) fn extend(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    pub(crate) fn print(&self) {
        let head = ["measure", "floor", "ours", "ratio", "target", ""];
        let all: Vec<_> = std::iter::once(head).chain(self.rows.iter().map(|row| row.cells(self.effort))).collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: [usize; 6] = std::array::from_fn(width);
        let line = |row: &[&str; 6]| {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
        };
        println!();
        line(&head);
        println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
        all.iter().skip(1).for_each(line);
        println!("\n{}", self.conditions());
    }

    fn conditions(&self) -> String {
        let build = if cfg!(debug_assertions) { "a DEBUG build: the ratios mean nothing" } else { "a release build" };
        let effort = if self.effort == Effort::Smoke { "A smoke run: a few calls each. " } else { "" };
        format!("{effort}On {}, {build}; load average {} before, {} after.", machine(), self.load, load())
    }
}

pub(crate) fn time(micros: f64) -> String {
    match micros {
        _ if micros >= 10_000.0 => format!("{:.1} ms", micros / 1e3),
        _ if micros >= 100.0 => format!("{micros:.0} µs"),
        _ => format!("{micros:.1} µs"),
    }
}

pub(crate) fn rate(rate: f64) -> String {
    if rate >= 10_000.0 { format!("{:.1} k/s", rate / 1e3) } else { format!("{rate:.0} /s") }
}

pub(crate) fn bytes(bytes: f64) -> String {
    match bytes {
        _ if bytes >= 10e6 => format!("{:.0} MB", bytes / 1e6),
        _ if bytes >= 10e3 => format!("{:.1} KB", bytes / 1e3),
        _ => format!("{bytes:.0} B"),
    }
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
        line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let kib = value(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let (model, kernel) = (value(&cpus, "model name"), read("/proc/sys/kernel/osrelease"));
    format!("{count} CPUs ({model}), {:.0} GiB, Linux {}", kib / 1_048_576.0, kernel.trim())
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}
