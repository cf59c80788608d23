use std::{fs, io, net::TcpListener, path::Path, sync::Arc, time::Duration};

use jobgate_router::{Decision, MemoryStore, Router, RunError, Scope, config::Config};
use jobgate_sdk::{AdmissionRequest, ServeError, Verdict, serve};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    Policies,
    client::Client,
    connection::Connection,
    output::Failure,
    runner::{Runner, RunnerError, Shutdown},
    token::Token,
};

/// The policies of the demo, by the names its configuration gives them.
const FILES: [(&str, &str); 6] = [
    ("jobgate.yaml", include_str!("../../examples/demo/jobgate.yaml")),
    ("image-registries/registries.rego", include_str!("../../examples/policies/image-registries/registries.rego")),
    ("image-registries/data.yaml", include_str!("../../examples/policies/image-registries/data.yaml")),
    ("hardening.rego", include_str!("../../examples/policies/hardening/hardening.rego")),
    ("payments.yaml", include_str!("../../examples/demo/payments.yaml")),
    ("digests.yaml", include_str!("../../examples/demo/digests.yaml")),
];

const TOKENS: [&str; 3] = ["shop-time-budget", "shell-1", "demo"];

/// Longer jobs of the shop are refused by a controller that attaches to the router.
const SHOP_BUDGET: i64 = 2 * 3600;

/// How long each part may take to end.
const END: Duration = Duration::from_secs(10);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) client: Client,
    folder: TempDir,
    runner: JoinHandle<Result<(), RunnerError>>,
    runner_told: watch::Sender<Shutdown>,
    controller: JoinHandle<Result<(), ServeError>>,
    router: JoinHandle<Result<(), RunError>>,
    end: Vec<oneshot::Sender<()>>,
}

impl Stage {
    /// Starts a router, a controller that attaches to it, and a runner.
    pub(super) async fn set(hear: mpsc::UnboundedSender<Arc<Decision>>) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("jobgate-demo-").tempdir();
        let folder = folder.and_then(|folder| write(folder.path()).map(|()| folder));
        let folder = folder.map_err(|error| Failure::new(format_args!("cannot write the demo's files: {error}")))?;
        let config = Config::load(&folder.path().join("jobgate.yaml"))?;
        let scope: Scope = "project:acme/payments/api".parse().map_err(Failure::new)?;
        let bound = Router::new(config, Arc::new(Policies))
            // It leaves nothing behind, so nothing of it has to last.
            .store(MemoryStore)
            .controller("release-from-tags", scope, release_from_tags)
            .on_decision(move |decision| _ = hear.send(Arc::clone(decision)))
            .bind()
            .await
            .map_err(Failure::new)?;
        let url = format!("http://{}", bound.local_addr());
        let (end_router, router_ends) = oneshot::channel();
        let router = tokio::spawn(Box::pin(bound.serve(async { _ = router_ends.await })));

        let (end_controller, controller_ends) = oneshot::channel::<()>();
        let token = jobgate_sdk::Token::from_file(folder.path().join("shop-time-budget.token"));
        let attach = serve(shop_time_budget).named("shop-time-budget").attach(&url, token);
        let controller = tokio::spawn(attach.with_shutdown(controller_ends).into_future());

        let connect = |name: &str| -> Result<Connection, Failure> {
            let token = Token::from_file(&folder.path().join(format!("{name}.token"))).map_err(Failure::new)?;
            Connection::new(&url).and_then(|connection| connection.token(token, false)).map_err(Failure::new)
        };
        let (runner_told, told) = watch::channel(Shutdown::Not);
        let runner = Runner::new(connect("shell-1")?, "shell-1").capacity(4).scratch(folder.path().join("scratch"));
        let runner = tokio::spawn(Box::pin(runner.run(told)));
        let client = Client::new(connect("demo")?)?;
        Ok(Self { client, folder, runner, runner_told, controller, router, end: vec![end_controller, end_router] })
    }

    /// Waits until the attaching controller is there: before, its jobs would fail closed.
    pub(super) async fn attached(&self) -> Result<(), Failure> {
        loop {
            let found: Value = self.client.get("/v1/controllers", &[]).await?;
            let controllers = found["controllers"].as_array().into_iter().flatten();
            if controllers.filter(|c| c["name"] == "shop-time-budget").any(|c| c["attached"] != 0) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends everything in the order in which it does not hurt, and removes its files.
    pub(super) async fn clear(self) {
        let Self { folder, mut runner, runner_told, mut controller, mut router, end, .. } = self;
        runner_told.send_replace(Shutdown::Now);
        let _ = timeout(END, &mut runner).await;
        end.into_iter().for_each(|end| _ = end.send(()));
        let _ = timeout(END, &mut controller).await;
        let _ = timeout(END, &mut router).await;
        runner.abort();
        controller.abort();
        router.abort();
        if let Err(error) = folder.close() {
            tracing::error!(%error, "the demo's files could not be removed");
        }
    }
}

/// A controller in the router's own process: a closure.
async fn release_from_tags(request: AdmissionRequest) -> Verdict {
    let job = request.job();
    let released = job.ref_type == Some(jobgate_sdk::RefType::Tag.into());
    match job.environment.as_deref() {
        Some("production") if !released => {
            Verdict::reject("the API goes to production from tags only").rule("release-from-tags")
        }
        _ => Verdict::admit(),
    }
}

/// A controller that could as well be another process on another machine.
async fn shop_time_budget(request: AdmissionRequest) -> Verdict {
    match request.job().timeout_seconds {
        Some(seconds) if seconds > SHOP_BUDGET => {
            Verdict::reject(format!("shop jobs end within {SHOP_BUDGET} s, and this one asks for {seconds} s"))
                .rule("time-budget")
        }
        _ => Verdict::admit(),
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder.join("scratch"))?;
    fs::create_dir(folder.join("image-registries"))?;
    // An address that was free a moment ago, so that nobody answers there.
    let absent = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    for (name, text) in FILES {
        fs::write(folder.join(name), text.replace("127.0.0.1:9", &absent))?;
    }
    for name in TOKENS {
        fs::write(folder.join(format!("{name}.token")), uuid::Uuid::new_v4().to_string())?;
    }
    Ok(())
}
