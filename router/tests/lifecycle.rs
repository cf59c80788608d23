//! A router from start to end, through its front door.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use jobgate_router::{
    Batch, CoreError, DocumentRef, NoPolicies, Router, RunError, Store, StoreError, config::Config, jobs_from_documents,
};
use jobgate_yaml::Source;

struct Broken;

impl Store for Broken {
    fn commit(&mut self, _: &Batch) -> Result<Vec<DocumentRef>, StoreError> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_router_whose_core_breaks_down_ends_instead_of_looking_alive() {
    let config = Config::parse(&Source::new("test", "listen: 127.0.0.1:0"), Path::new(".")).unwrap();
    let bound = Router::new(config, Arc::new(NoPolicies)).store(Broken).bind().await.unwrap();
    let handle = bound.handle();
    let serving = tokio::spawn(bound.serve(std::future::pending()));
    let document = Bytes::from_static(br#"{ "job": { "name": "build" }, "project": { "path": "acme/api" } }"#);
    let jobs = jobs_from_documents(&document, "test").unwrap();
    assert_eq!(handle.submit(jobs, None).await.unwrap_err(), CoreError::Closing);
    let ended = tokio::time::timeout(Duration::from_secs(20), serving).await.expect("it goes on").unwrap();
    assert!(matches!(ended, Err(RunError::Broken(_))), "{ended:?}");
}
