use jiff::{civil::Time, tz::TimeZone};
use jobgate_yaml::{Entry, Fields, Node, Place, Reader, Value};
use regex::RegexBuilder;

use super::{
    glob::{BadPattern, Case, LONGEST, Patterns},
    image::ImagePattern,
    matcher::{ImagePart, ImagePatterns, KEYS, KindField, Kinds, ListField, Matcher, Test, TextField},
    within::{DAY_NAMES, Days, Window, time_of_day},
};
use crate::{Exposed, Reads};

/// Reads matchers out of a mapping.
pub(super) struct Matchers<'r, 's> {
    pub(super) reader: &'r Reader<'s>,
    pub(super) exposed: &'r Exposed,
    pub(super) reads: &'r mut Reads,
}

const REGEX_BYTES: usize = 1 << 18;

impl Matchers<'_, '_> {
    /// Every matcher of a mapping. What is wrong with one is noted, and the others are read all the same.
    pub(super) fn several(&mut self, fields: &mut Fields<'_, '_, '_>) -> Vec<Matcher> {
        let mut matchers = Vec::new();
        for key in KEYS {
            let Some(node) = fields.take(key) else { continue };
            let line = fields.place_of(key).line;
            match key {
                "variables" => {
                    matchers.extend(self.variables(node).into_iter().map(|test| Matcher { key, line, test }));
                }
                _ => matchers.extend(self.test(key, node).map(|test| Matcher { key, line, test })),
            }
        }
        matchers
    }

    fn test(&mut self, key: &str, node: &Node) -> Option<Test> {
        let text = |field, patterns| Test::Text(field, patterns);
        Some(match key {
            "projects" => text(TextField::Project, self.patterns(node, Case::Folded)?),
            "groups" => Test::Groups(self.patterns(node, Case::Folded)?),
            "refs" => text(TextField::Ref, self.patterns(node, Case::Exact)?),
            "sources" => text(TextField::Source, self.patterns(node, Case::Exact)?),
            "environments" => text(TextField::Environment, self.patterns(node, Case::Exact)?),
            "stages" => text(TextField::Stage, self.patterns(node, Case::Exact)?),
            "jobs" => text(TextField::Job, self.patterns(node, Case::Exact)?),
            "ref_types" => Test::Kind(KindField::RefType, self.kinds(node, KindField::RefType)?),
            "protected" => Test::Kind(KindField::Protected, self.flags(node)?),
            "runner_types" => {
                self.reads.runner = true;
                Test::Kind(KindField::RunnerType, self.kinds(node, KindField::RunnerType)?)
            }
            "users" => self.users(node)?,
            "tags" => Test::List(ListField::Tags, self.patterns(node, Case::Exact)?),
            "runner_tags" => {
                self.reads.runner = true;
                Test::List(ListField::RunnerTags, self.patterns(node, Case::Exact)?)
            }
            "image" => Test::Image(self.images(node)?),
            "services" => Test::Services(self.images(node)?),
            "image_registry" => Test::ImagePart(ImagePart::Registry, self.patterns(node, Case::Folded)?),
            "image_repository" => Test::ImagePart(ImagePart::Repository, self.patterns(node, Case::Exact)?),
            "image_tag" => Test::ImagePart(ImagePart::Tag, self.patterns(node, Case::Exact)?),
            "image_digest" => Test::ImagePart(ImagePart::Digest, self.patterns(node, Case::Exact)?),
            "script" => self.script(node)?,
            "within" => Test::Within(self.windows(node)?),
            _ => return None,
        })
    }

    fn patterns(&self, node: &Node, case: Case) -> Option<Patterns> {
        let mut patterns = Patterns::default();
        self.each(node, |text| patterns.add(text, case))?;
        Some(patterns)
    }

    fn images(&self, node: &Node) -> Option<ImagePatterns> {
        let mut images = ImagePatterns::default();
        self.each(node, |text| {
            match text {
                "" => images.absent = true,
                text => images.patterns.push(ImagePattern::new(text)?),
            }
            Ok(())
        })?;
        Some(images)
    }

    /// Reads every text of a list, or the one that stands for it.
    fn each(&self, node: &Node, mut add: impl FnMut(&str) -> Result<(), BadPattern>) -> Option<()> {
        self.not_empty(node)?;
        let texts = self.reader.strings(node)?;
        let mut clean = true;
        for (text, place) in texts {
            if let Err(bad) = add(text) {
                self.bad(place, bad);
                clean = false;
            }
        }
        clean.then_some(())
    }

    /// An empty list would match nothing, and a rule on it would be silent or reject everything.
    fn not_empty(&self, node: &Node) -> Option<()> {
        match &node.value {
            Value::List(nodes) if nodes.is_empty() => {
                let help = "name at least one value; `\"\"` stands for what is empty or absent";
                self.reader.fault_with_help(node.place, "an empty list matches nothing", help);
                None
            }
            _ => Some(()),
        }
    }

    fn bad(&self, place: Place, bad: BadPattern) {
        match bad.help {
            Some(help) => self.reader.fault_with_help(place, bad.message, help),
            None => self.reader.fault(place, bad.message),
        }
    }

    fn kinds(&self, node: &Node, field: KindField) -> Option<Kinds> {
        self.not_empty(node)?;
        let mut kinds = Kinds::default();
        for node in elements(node) {
            match self.reader.choice(node, field.words())? {
                Some(number) => kinds.values.push(number),
                None => kinds.absent = true,
            }
        }
        Some(kinds)
    }

    fn flags(&self, node: &Node) -> Option<Kinds> {
        self.not_empty(node)?;
        let mut kinds = Kinds::default();
        for node in elements(node) {
            match &node.value {
                Value::Text(text) if text.is_empty() => kinds.absent = true,
                _ => kinds.values.push(i32::from(self.reader.boolean(node)?)),
            }
        }
        Some(kinds)
    }

    /// Login names, and ids as numbers.
    fn users(&self, node: &Node) -> Option<Test> {
        self.not_empty(node)?;
        let (mut ids, mut logins) = (Vec::new(), Patterns::default());
        let mut clean = true;
        for node in elements(node) {
            let read = match node.value {
                Value::Integer(id) => {
                    ids.push(id);
                    Some(())
                }
                _ => self
                    .reader
                    .string(node)
                    .and_then(|text| logins.add(text, Case::Folded).map_err(|bad| self.bad(node.place, bad)).ok()),
            };
            clean &= read.is_some();
        }
        clean.then_some(Test::Users { ids, logins })
    }

    /// A list of names, or a mapping from name to values.
    fn variables(&mut self, node: &Node) -> Vec<Test> {
        let Value::Map(entries) = &node.value else {
            let patterns = self.patterns(node, Case::Exact);
            return patterns.map(|patterns| Test::List(ListField::VariableNames, patterns)).into_iter().collect();
        };
        if entries.is_empty() {
            self.reader.fault(node.place, "name a variable");
        }
        entries.iter().filter_map(|entry| self.variable(entry)).collect()
    }

    fn variable(&mut self, entry: &Entry) -> Option<Test> {
        let values = self.patterns(&entry.node, Case::Exact);
        let key = &entry.key;
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let help = "values are matched by exact name; for names alone write a list, as `variables: [\"DOCKER_*\"]`";
            self.reader.fault_with_help(entry.place, format!("`{key}` is not the name of a variable"), help);
            return None;
        }
        if !self.exposed.variable(key) {
            let help = format!("add `{key}` to the controller's `expose` list (`--expose {key}`)");
            let message = format!("the value of variable `{key}` is not exposed to this controller");
            self.reader.fault_with_help(entry.place, message, help);
            return None;
        }
        self.reads.variables.insert(key.clone());
        Some(Test::Variable { key: key.as_str().into(), values: values? })
    }

    /// Regular expressions.
    fn script(&mut self, node: &Node) -> Option<Test> {
        self.reads.script = true;
        let (mut regexes, mut absent) = (Vec::new(), false);
        let read = self.each(node, |text| {
            match text {
                "" => absent = true,
                text if text.len() > 4 * LONGEST => {
                    return Err(BadPattern::new(format!("an expression has at most {} bytes", 4 * LONGEST)));
                }
                text => regexes.push(regex(text)?),
            }
            Ok(())
        });
        if !self.exposed.script() {
            let message = "the script is not exposed to this controller";
            let help = "add `script` to the controller's `expose` list (`--expose script`)";
            self.reader.fault_with_help(node.place, message, help);
            return None;
        }
        read.map(|()| Test::Script { regexes, absent })
    }

    fn windows(&self, node: &Node) -> Option<Vec<Window>> {
        self.not_empty(node)?;
        let windows: Vec<_> = elements(node).iter().map(|node| self.window(node)).collect();
        windows.into_iter().collect()
    }

    fn window(&self, node: &Node) -> Option<Window> {
        let mut fields = self.reader.fields(node, "a window")?;
        let days = fields.take("days");
        let from = fields.take("from");
        let to = fields.take("to");
        let zone = fields.require("timezone").and_then(|node| self.zone(node));
        if days.is_none() && from.is_none() && to.is_none() {
            self.reader.fault(node.place, "a window needs `days`, or `from` and `to`");
        }
        if from.is_some() != to.is_some() {
            self.reader.fault(node.place, "a window has `from` and `to`, or neither");
        }
        let read_days = days.map_or(Some(Days::ALL), |node| self.days(node));
        let read_from = from.map_or(Some(Some(Time::midnight())), |node| self.time(node));
        let read_to = to.map_or(Some(None), |node| self.time(node));
        fields.finish();

        let (from, to) = (self.begin(from, read_from?)?, read_to?);
        if Some(from) == to {
            self.reader.fault(node.place, "`from` and `to` are the same; leave both out for the whole day");
            return None;
        }
        let (name, zone) = zone?;
        let days_text = days.and_then(|node| self.reader.strings(node)).unwrap_or_default();
        let text = describe(&days_text, from, to, name);
        Some(Window { days: read_days?, from, to, zone, text: text.into() })
    }

    /// A window does not begin at the end of a day.
    fn begin(&self, node: Option<&Node>, time: Option<Time>) -> Option<Time> {
        if time.is_none() {
            let place = node.map(|node| node.place).unwrap_or_default();
            self.reader.fault_with_help(place, "a window cannot begin at 24:00", "write `00:00` and the next day");
        }
        time
    }

    fn days(&self, node: &Node) -> Option<Days> {
        self.not_empty(node)?;
        let mut days = Days::NONE;
        for (text, place) in self.reader.strings(node)? {
            let Some(more) = days.with(text) else {
                let help = format!("days are {}, or a range as mon-fri", DAY_NAMES.join(", "));
                self.reader.fault_with_help(place, format!("`{text}` is not a day"), help);
                return None;
            };
            days = more;
        }
        Some(days)
    }

    fn time(&self, node: &Node) -> Option<Option<Time>> {
        let text = match &node.value {
            Value::Text(text) => text.as_str(),
            // `08:00` without quotes is a number to some readers of YAML.
            _ => self.reader.string(node)?,
        };
        let time = time_of_day(text);
        if time.is_none() {
            let message = format!("`{text}` is not a time of day");
            self.reader.fault_with_help(node.place, message, "write hours and minutes, as \"08:00\"");
        }
        time
    }

    fn zone<'n>(&self, node: &'n Node) -> Option<(&'n str, TimeZone)> {
        let name = self.reader.name(node)?;
        match TimeZone::get(name) {
            Ok(zone) => Some((name, zone)),
            Err(_) => {
                let known: Vec<_> = jiff::tz::db().available().map(|name| name.to_string()).collect();
                let message = match jobgate_yaml::nearest(name, known.iter().map(String::as_str)) {
                    Some(near) => format!("unknown time zone `{name}`; did you mean `{near}`?"),
                    None => format!("unknown time zone `{name}`"),
                };
                self.reader.fault_with_help(node.place, message, "name a place, as `Europe/Berlin`, or `UTC`");
                None
            }
        }
    }
}

fn elements(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(nodes) => nodes,
        _ => std::slice::from_ref(node),
    }
}

fn regex(text: &str) -> Result<regex::Regex, BadPattern> {
    let regex = RegexBuilder::new(text).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).nest_limit(64).build();
    let regex = regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            BadPattern::new("this expression is too large to compile").help("bound its repetitions")
        }
        error => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            BadPattern::new(format!("not a regular expression: {reason}"))
        }
    })?;
    match regex.is_match("") {
        true => Err(BadPattern::new("this expression matches every line").help("say what must be in the line")),
        false => Ok(regex),
    }
}

fn describe(days: &[(&str, Place)], from: Time, to: Option<Time>, zone: &str) -> String {
    let days: Vec<_> = days.iter().map(|(day, _)| *day).collect();
    let to = to.map_or("24:00".into(), |to| to.strftime("%H:%M").to_string());
    format!("{} {}-{to} {zone}", days.join(","), from.strftime("%H:%M")).trim_start().to_owned()
}
