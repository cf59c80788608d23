use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jobgate_yaml::{Fault, Faults};
use sha2::{Digest, Sha256};

/// What a set of policies is made of, read but not yet compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) rego: Vec<File>,
    pub(crate) yaml: Vec<File>,
    pub(crate) data: Vec<File>,
    pub(crate) rego_tests: Vec<File>,
    pub(crate) yaml_tests: Vec<File>,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// As faults name it.
    pub(crate) path: PathBuf,
    /// Its path below the directory that was named; the same on every machine.
    name: String,
    pub(crate) text: Arc<str>,
    /// Its place among all files of the set.
    pub(crate) order: usize,
}

impl File {
    pub(crate) fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// Limits of one set: enough for any policy people write, and for no disk full of something else.
const MOST_FILES: usize = 1_000;
const MOST_BYTES: u64 = 1 << 20;
const MOST_BYTES_IN_ALL: usize = 16 << 20;
const MOST_DEPTH: usize = 16;

impl Files {
    /// Reads every policy, data and test file at or below these paths.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self, Faults> {
        let mut reading = Reading::default();
        if paths.is_empty() {
            reading.faults.push(Fault::new("policy", "no path was given"));
        }
        for path in paths {
            let before = reading.policies;
            let clean = reading.faults.len();
            reading.root(path);
            if reading.policies == before && reading.faults.len() == clean {
                let fault = Fault::new(shown(path), "no policy in it");
                reading.faults.push(fault.help("policies are files that end in .rego, .yaml or .yml"));
            }
        }
        Faults::collect(reading.faults).map_or(Ok(reading.files), Err)
    }

    /// The same of texts in memory, each with the name of the file it would be.
    pub(crate) fn from_texts<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files = Self::default();
        for (order, (name, text)) in texts.into_iter().enumerate() {
            let Some(kind) = Kind::of(Path::new(name)) else { continue };
            files.list(kind).push(File { path: name.into(), name: name.into(), text: text.into(), order });
        }
        files
    }

    /// A digest over names and contents of everything that decides.
    pub(crate) fn digest(&self) -> Arc<str> {
        let mut hash = Sha256::new();
        for (kind, files) in [("rego", &self.rego), ("yaml", &self.yaml), ("data", &self.data)] {
            let mut files: Vec<_> = files.iter().collect();
            files.sort_by(|a, b| (&a.name, &a.text).cmp(&(&b.name, &b.text)));
            for file in files {
                for part in [kind, &file.name, &file.text] {
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
            }
        }
        let digest: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digest}").into()
    }

    fn list(&mut self, kind: Kind) -> &mut Vec<File> {
        match kind {
            Kind::Rego => &mut self.rego,
            Kind::RegoTest => &mut self.rego_tests,
            Kind::Yaml => &mut self.yaml,
            Kind::YamlTest => &mut self.yaml_tests,
            Kind::Data => &mut self.data,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rego,
    RegoTest,
    Yaml,
    YamlTest,
    Data,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        Some(match name {
            "data.json" | "data.yaml" | "data.yml" => Self::Data,
            _ if ends(&["_test.rego"]) => Self::RegoTest,
            _ if ends(&[".rego"]) => Self::Rego,
            _ if ends(&[".test.yaml", ".test.yml"]) => Self::YamlTest,
            _ if ends(&[".yaml", ".yml"]) => Self::Yaml,
            _ => return None,
        })
    }
}

#[derive(Default)]
struct Reading {
    files: Files,
    faults: Vec<Fault>,
    /// Directories on the way, so that a link to one of them ends.
    seen: BTreeSet<PathBuf>,
    count: usize,
    policies: usize,
    bytes: usize,
}

impl Reading {
    fn root(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => self.directory(path, path, 0),
            Ok(meta) if meta.is_file() => {
                if let Some(kind) = Kind::of(path) {
                    self.file(path, path.parent().unwrap_or(path), kind, &meta);
                    self.siblings(path, kind);
                }
            }
            Ok(_) => self.faults.push(Fault::new(shown(path), "neither a file nor a directory")),
            Err(error) => self.faults.push(unreadable(path, &error)),
        }
    }

    /// The tests of a policy that was named by itself.
    fn siblings(&mut self, path: &Path, kind: Kind) {
        let test = match (kind, path.file_stem().and_then(|stem| stem.to_str())) {
            (Kind::Yaml, Some(stem)) => path.with_file_name(format!("{stem}.test.yaml")),
            (Kind::Rego, Some(stem)) => path.with_file_name(format!("{stem}_test.rego")),
            _ => return,
        };
        if let (Ok(meta), Some(kind)) = (fs::metadata(&test), Kind::of(&test)) {
            self.file(&test, test.parent().unwrap_or(&test), kind, &meta);
        }
    }

    fn directory(&mut self, root: &Path, path: &Path, depth: usize) {
        let listed =
            path.canonicalize().and_then(|real| Ok((real, fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?)));
        let (real, entries) = match listed {
            Ok(listed) => listed,
            Err(error) => return self.faults.push(unreadable(path, &error)),
        };
        if !self.seen.insert(real) {
            return;
        }
        if depth > MOST_DEPTH {
            return self.faults.push(Fault::new(shown(path), "directories are nested too deeply"));
        }
        let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            // Hidden ones are skipped: editors' leftovers, and the `..data` that holds a ConfigMap's files a second time.
            if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => self.directory(root, &path, depth + 1),
                Ok(meta) => {
                    if let Some(kind) = Kind::of(&path) {
                        self.file(&path, root, kind, &meta);
                    }
                }
                Err(error) if Kind::of(&path).is_some() => self.faults.push(unreadable(&path, &error)),
                Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: &Path, root: &Path, kind: Kind, meta: &fs::Metadata) {
        self.count += 1;
        if matches!(kind, Kind::Rego | Kind::Yaml) {
            self.policies += 1;
        }
        let refuse = |message: String| Fault::new(shown(path), message);
        if self.count > MOST_FILES {
            if self.count == MOST_FILES + 1 {
                self.faults.push(refuse(format!("more than {MOST_FILES} files are not read")));
            }
            return;
        }
        if !meta.is_file() {
            return self.faults.push(refuse("this is not a file".into()));
        }
        if meta.len() > MOST_BYTES {
            let message = format!("{} bytes are more than the {MOST_BYTES} a policy file may have", meta.len());
            return self.faults.push(refuse(message));
        }
        let text = match fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => return self.faults.push(refuse("this is not UTF-8 text".into())),
            Err(error) => return self.faults.push(unreadable(path, &error)),
        };
        self.bytes += text.len();
        if self.bytes > MOST_BYTES_IN_ALL {
            return self.faults.push(refuse(format!("the policies are larger than {MOST_BYTES_IN_ALL} bytes in all")));
        }
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let file = File { path: path.into(), name, text: text.into(), order: self.count };
        self.files.list(kind).push(file);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => Fault::new(shown(path), "no such file or directory"),
        _ => Fault::new(shown(path), format!("cannot be read: {error}")),
    }
}
