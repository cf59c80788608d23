use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::{PolicyHandle, ReloadOutcome, reload};

/// How long the files must be quiet before they are read: an editor writes more than once.
const QUIET: Duration = Duration::from_millis(100);
const RESTLESS: Duration = Duration::from_secs(2);

/// Reloads policies when their files change, for as long as it is polled; tells `report` of every reload that was not
/// [`ReloadOutcome::Unchanged`], and of a failure only when it is another than the last one.
///
/// The operating system says when something changed. Where it does not (network drives, too many watches), the files are
/// read every `interval` all the same; 30 seconds are cheap, since contents are compared before anything is compiled.
pub async fn watch(handle: &PolicyHandle, interval: Duration, mut report: impl FnMut(ReloadOutcome)) {
    let (changed, mut changes) = mpsc::channel(1);
    let _watcher = watcher(handle, changed);
    let mut last = ReloadOutcome::Unchanged;
    loop {
        tokio::select! {
            // Without a watcher nobody sends, and only the interval counts.
            Some(()) = changes.recv() => settle(&mut changes).await,
            () = tokio::time::sleep(interval) => {}
        }
        let outcome = handle.reload().await;
        if outcome != ReloadOutcome::Unchanged && outcome != last {
            report(outcome.clone());
        }
        last = outcome;
    }
}

/// Waits until nothing more changes; not for ever, since something beside the policies may never rest.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let quiet = async { while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {} };
    let _ = tokio::time::timeout(RESTLESS, quiet).await;
}

fn watcher(handle: &PolicyHandle, changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let note = move |event: notify::Result<notify::Event>| {
        // Reading the policies is no change of them.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // One note that waits is as good as many.
        let _ = changed.try_send(());
    };
    let made = notify::recommended_watcher(note).and_then(|mut watcher| {
        for (directory, below) in reload::watched(handle.paths()) {
            let mode = if below { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            watcher.watch(&directory, mode)?;
        }
        Ok(watcher)
    });
    made.inspect_err(|error| {
        tracing::warn!(%error, "changes of policies are noticed by reading them from time to time only");
    })
    .ok()
}
