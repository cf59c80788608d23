//! The directory of one job.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::script::{Script, Variable};

/// A directory that is the job's alone, and gone when it is over.
pub(super) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// Makes one below `parent`.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("jobgate-job-").tempdir_in(parent)?;
        for name in ["work", "tmp", "variables"] {
            fs::create_dir(dir.path().join(name))?;
        }
        Ok(Self { dir })
    }

    /// Where the script starts, empty.
    pub(super) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Writes one step as a file for `sh`.
    pub(super) fn step(&self, number: usize, lines: &[String]) -> io::Result<PathBuf> {
        let path = self.dir.path().join(format!("step-{number}.sh"));
        let mut text = lines.join("\n");
        text.push('\n');
        private(&path, &text)?;
        Ok(path)
    }

    /// The script's whole environment: nothing of the runner's but its `PATH` and language. The fence comes last: no variable
    /// of the job may stand in its place.
    pub(super) fn environment(
        &self,
        script: &Script,
        job_id: &str,
        fence: Option<u64>,
    ) -> io::Result<Vec<(String, String)>> {
        let own = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
        let mut environment = vec![own("HOME", &self.work()), own("TMPDIR", &self.dir.path().join("tmp"))];
        for name in ["PATH", "LANG", "LC_ALL", "TZ"] {
            environment.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
        }
        environment.push(("CI".to_owned(), "true".to_owned()));
        environment.push(("JOBGATE_JOB_ID".to_owned(), job_id.to_owned()));
        for (index, variable) in script.variables.iter().enumerate() {
            environment.push((variable.key.clone(), self.value(index, variable)?));
        }
        environment.extend(fence.map(|fence| ("JOBGATE_FENCE".to_owned(), fence.to_string())));
        Ok(environment)
    }

    fn value(&self, index: usize, variable: &Variable) -> io::Result<String> {
        if !variable.file {
            return Ok(variable.value.clone());
        }
        // By number: a key may be anything, also `../x`.
        let path = self.dir.path().join("variables").join(index.to_string());
        private(&path, &variable.value)?;
        Ok(path.display().to_string())
    }

    /// Removes everything, also what the job made unremovable (Go's module cache is).
    pub(super) fn remove(self) -> io::Result<()> {
        let path = self.dir.keep();
        fs::remove_dir_all(&path).or_else(|_| {
            open_up(&path)?;
            fs::remove_dir_all(&path)
        })
    }
}

fn private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Of the entry itself, not of what a link points to.
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_survives_what_a_job_leaves_behind() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        let deep = scratch.work().join("go/pkg");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, deep.join("link")).unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o000)).unwrap();
        scratch.remove().unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_variables_are_private_files_whatever_their_names() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        let script = "payload: {script: [a], variables: {../../KEY: {value: v, file: true}}}".parse().unwrap();
        let environment = scratch.environment(&script, "7", None).unwrap();
        let (_, path) = environment.iter().find(|(key, _)| key == "../../KEY").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "v");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
