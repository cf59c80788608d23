use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{output::Failure, runner::Shutdown};

/// What SIGTERM and SIGINT ask for: the first one to drain, the next one to stop now.
pub(super) fn shutdown() -> Result<watch::Receiver<Shutdown>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(format_args!("cannot listen to signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (tell, told) = watch::channel(Shutdown::Not);
    tokio::spawn(async move {
        for next in [Shutdown::Drain, Shutdown::Now] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tell.send_replace(next);
        }
        // Kept open: nobody is to see this end as a third word.
        tell.closed().await;
    });
    Ok(told)
}

/// As [`shutdown`], where a terminal that goes away means to stop now: jobs have process groups of their own, and would live on.
pub(super) fn shutdown_with_terminal() -> Result<watch::Receiver<Shutdown>, Failure> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::new(format_args!("cannot listen to signals: {error}")))?;
    let mut told = shutdown()?;
    let (tell, both) = watch::channel(Shutdown::Not);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => drop(tell.send_replace(Shutdown::Now)),
                Ok(()) = told.changed() => {
                    let now = *told.borrow_and_update();
                    tell.send_if_modified(|before| *before != Shutdown::Now && std::mem::replace(before, now) != now);
                }
            }
        }
    });
    Ok(both)
}

/// Over at the first signal.
pub(super) async fn first(mut told: watch::Receiver<Shutdown>) {
    let _ = told.wait_for(|now| *now != Shutdown::Not).await;
}
