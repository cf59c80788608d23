use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// How every line of a decision begins.
const OUR_LINE: &[u8; 16] = br#"{"admission_id":"#;

/// A file of lines that is renamed away when it is large: `decisions.jsonl`, `decisions.jsonl.1` (newest) …
pub(super) struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: usize,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Length up to the last whole line.
    length: u64,
    /// Devices and pipes are neither cut nor rotated.
    regular: bool,
}

impl RotatingFile {
    pub(super) fn new(path: PathBuf, max_bytes: u64, keep: usize) -> Self {
        Self { path, max_bytes, keep, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines. On an error says how many of them are in the file; the rest is not, not even in part.
    pub(super) fn append(&mut self, lines: &[Vec<u8>]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < lines.len() {
            match self.append_some(&lines[written..]) {
                Ok(count) => written += count,
                Err(error) => {
                    // Opened anew next time: the file may have been removed, or its disk come back.
                    self.open = None;
                    return Err((written, error));
                }
            }
        }
        Ok(())
    }

    /// Writes as many lines as the file has room for, at least one, in one go.
    fn append_some(&mut self, lines: &[Vec<u8>]) -> io::Result<usize> {
        self.rotate_if_larger_than(self.max_bytes.saturating_sub(lines[0].len() as u64))?;
        let max_bytes = self.max_bytes;
        let open = self.open()?;
        let mut block = lines[0].clone();
        let mut count = 1;
        for line in &lines[1..] {
            if open.regular && open.length + (block.len() + line.len()) as u64 > max_bytes {
                break;
            }
            block.extend_from_slice(line);
            count += 1;
        }
        if let Err(error) = open.file.write_all(&block) {
            // Takes back what was written of it; if that fails too, opening cuts it off.
            if open.regular {
                let _ = open.file.set_len(open.length);
            }
            return Err(error);
        }
        open.length += block.len() as u64;
        Ok(count)
    }

    fn rotate_if_larger_than(&mut self, room: u64) -> io::Result<()> {
        if self.moved_away() {
            self.open = None;
        }
        let open = self.open()?;
        if !open.regular || open.length == 0 || open.length <= room {
            return Ok(());
        }
        self.open = None;
        let _ = fs::remove_file(self.numbered(self.keep));
        for number in (1..self.keep).rev() {
            rename_if_there(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename_if_there(&self.path, &self.numbered(1))
    }

    /// Whether somebody else rotated or removed the file.
    fn moved_away(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Some(open) = self.open.as_ref().filter(|open| open.regular) else { return false };
        let (Ok(ours), Ok(theirs)) = (open.file.metadata(), fs::metadata(&self.path)) else { return true };
        (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino())
    }

    fn open(&mut self) -> io::Result<&mut Open> {
        let open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&self.path)?,
        };
        Ok(self.open.insert(open))
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let regular = fs::metadata(path).map_or(true, |metadata| metadata.is_file());
        let mut file = OpenOptions::new().read(regular).append(true).create(true).mode(0o600).open(path)?;
        let length = if regular { mend_last_line(&mut file)? } else { 0 };
        Ok(Self { file, length, regular })
    }
}

/// A crash may have left half a line at the end: removes it if it is one of ours, ends it if it is not, and says how long the
/// file is.
fn mend_last_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let start = start_of_last_line(file, length)?;
    if start == length {
        return Ok(length);
    }
    let mut head = [0; OUR_LINE.len()];
    file.seek(SeekFrom::Start(start))?;
    let ours = file.read_exact(&mut head).is_ok() && head == *OUR_LINE;
    if ours {
        file.set_len(start)?;
        return Ok(start);
    }
    file.write_all(b"\n")?;
    Ok(length + 1)
}

fn start_of_last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut block = [0; 8192];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        #[expect(clippy::cast_possible_truncation, reason = "at most the length of the block")]
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(newline) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
