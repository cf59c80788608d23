//! The program as a process.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// How a process ended, and what it said.
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// How a process is run.
#[derive(Clone, Copy)]
pub struct How<'a> {
    input: Option<&'a str>,
    closed: bool,
    temp: Option<&'a Path>,
}

/// With its output caught.
pub const PIPED: How<'static> = How { input: None, closed: false, temp: None };

impl<'a> How<'a> {
    /// Nobody reads its output.
    pub fn closed(self) -> Self {
        Self { closed: true, ..self }
    }

    /// With this directory for temporary files.
    pub fn temp(self, temp: &'a Path) -> Self {
        Self { temp: Some(temp), ..self }
    }
}

/// A directory of its own.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }
}

pub fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
}

pub fn jobgate(folder: &Path, args: &[&str]) -> Ended {
    run(folder, args, PIPED)
}

pub fn with_input(folder: &Path, args: &[&str], input: &str) -> Ended {
    run(folder, args, How { input: Some(input), ..PIPED })
}

pub fn run(folder: &Path, args: &[&str], how: How<'_>) -> Ended {
    let mut command = program(folder, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(temp) = how.temp {
        command.env("TMPDIR", temp);
    }
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(how.input.unwrap_or_default().as_bytes());
    drop(input);
    if how.closed {
        drop(child.stdout.take());
    }
    let ended = child.wait_with_output().unwrap();
    Ended {
        code: ended.status.code().unwrap_or(-1),
        out: String::from_utf8(ended.stdout).unwrap(),
        err: String::from_utf8(ended.stderr).unwrap(),
    }
}

fn program(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobgate"));
    command.args(args).current_dir(folder).env_remove("NO_COLOR");
    command
}

/// A process that runs until it is told to stop. Killed when dropped.
pub struct Server {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub log: String,
}

impl Server {
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let mut command = program(folder, args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| _ = tell.send(line)));
        Self { child, lines, log: String::new() }
    }

    /// The log's next line with this in it.
    pub fn says(&mut self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30));
            let line = line.unwrap_or_else(|_| panic!("no `{part}` in the log:\n{}", self.log));
            self.log.push_str(&line);
            self.log.push('\n');
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Memory it has at present, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// What the system was told about each part of its memory: lines of two-letter flags (proc(5), `smaps`).
    pub fn memory_flags(&self) -> Vec<String> {
        let parts = fs::read_to_string(format!("/proc/{}/smaps", self.child.id())).unwrap();
        parts.lines().filter_map(|line| line.strip_prefix("VmFlags:")).map(str::to_owned).collect()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.log.extend(self.lines.iter().map(|line| line + "\n"));
        (code, std::mem::take(&mut self.log))
    }

    pub fn stopped(self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.ended()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything a file holds.
pub fn read(path: PathBuf) -> String {
    let mut text = String::new();
    fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}
