//! A question to a controller in another process, dialled and attached, beside bare echoes of the same messages.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use jobgate_proto::admission::v1::{AdmitRequest, admission_controller_client::AdmissionControllerClient};
use jobgate_router::{Bound, MemoryStore, NoPolicies, Router, config::Config};
use jobgate_sdk::{AdmissionRequest, Controller, FailureCause, Token, Verdict, serve};
use jobgate_yaml::Source;
use prost::Message;

use crate::{
    Result,
    child::{self, Server},
    echo::{self, ANSWER_BYTES, Bare, EchoClient, Payload},
    fixtures,
    measure::{Compared, Cpu, Effort, Sample, closed_loop, compare},
    table::Row,
};

const IN_FLIGHT: [usize; 2] = [1, 64];
const TOKEN: &str = "bench-attached-0123456789";

/// Role `controller`.
pub(crate) async fn listen() -> Result<()> {
    let listening = serve(admit).listen("127.0.0.1:0").bind().await?;
    child::ready(listening.local_addr());
    Ok(listening.await?)
}

/// Role `controller-attach`.
pub(crate) async fn attach(url: &str) -> Result<()> {
    child::ready("dials");
    Ok(serve(admit).named("asked").attach(url, Token::from_value(TOKEN)).await?)
}

async fn admit(_: AdmissionRequest) -> Verdict {
    Verdict::admit()
}

pub(crate) async fn dialled(effort: Effort) -> Result<Vec<Row>> {
    let floor = Server::start("echo", &[])?;
    let controller = Server::start("controller", &[])?;
    let folder = tempfile::tempdir()?;
    let line = format!("{{ name: asked, scope: instance, grpc: \"{}\" }}", controller.url());
    let router = router(folder.path(), &line).await?;
    let asked = router.controller("asked").ok_or("the router lost its controller")?;
    let _router = tokio::spawn(router.serve(std::future::pending()));

    let (channel, typed) = (echo::connect(&floor.url()).await?, echo::connect(&floor.url()).await?);
    let (channel, typed) = (EchoClient::new(channel), AdmissionControllerClient::new(typed));
    let question = fixtures::question();
    let wire = AdmitRequest::from(&question);
    let body = Bytes::from(wire.encode_to_vec());
    let mut rows = Vec::new();
    for in_flight in IN_FLIGHT {
        let calls = effort.calls(if in_flight == 1 { 2_000 } else { 8_000 });
        let (mut to_messages, mut to_bytes) = (Vec::new(), Vec::new());
        for round in 0..=effort.rounds() {
            let cpu = Cpu::watch(floor.id());
            let mut bytes = closed_loop(in_flight, calls, async |_| {
                let payload = Payload { number: ANSWER_BYTES as u64, body: body.clone() };
                channel.clone().unary(payload).await?;
                Ok(())
            })
            .await?;
            cpu.add(&mut bytes, calls);
            let cpu = Cpu::watch(controller.id());
            let mut ours = ask(&*asked, &question, in_flight, calls).await?;
            cpu.add(&mut ours, calls);
            let cpu = Cpu::watch(floor.id());
            let mut messages = closed_loop(in_flight, calls, async |number| {
                typed.clone().admit(AdmitRequest { id: fixtures::id(number), ..wire.clone() }).await?;
                Ok(())
            })
            .await?;
            cpu.add(&mut messages, calls);
            // The first turn warms up.
            if round > 0 {
                to_messages.push((messages, ours));
                to_bytes.push((bytes, ours));
            }
        }
        rows.extend(lines("dialled", in_flight, &compare(&to_messages), &compare(&to_bytes)));
    }
    Ok(rows)
}

pub(crate) async fn attached(effort: Effort) -> Result<Vec<Row>> {
    let (mut floor, dialler) = Bare::open().await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("asked.token"), TOKEN)?;
    let router = router(folder.path(), "{ name: asked, scope: instance, attach: { token_file: asked.token } }").await?;
    let asked = router.controller("asked").ok_or("the router lost its controller")?;
    let url = format!("http://{}", router.local_addr());
    let _router = tokio::spawn(router.serve(std::future::pending()));
    let start = move || Server::start("controller-attach", &[&url]);
    let controller = tokio::task::spawn_blocking(start).await??;
    let question = fixtures::question();
    until_attached(&*asked, &question).await?;

    let wire = AdmitRequest::from(&question);
    let body = Bytes::from(wire.encode_to_vec());
    let mut rows = Vec::new();
    for in_flight in IN_FLIGHT {
        let calls = effort.calls(if in_flight == 1 { 3_000 } else { 20_000 });
        let (mut to_messages, mut to_bytes) = (Vec::new(), Vec::new());
        for round in 0..=effort.rounds() {
            let cpu = Cpu::watch(dialler.id());
            let mut bytes = floor.bytes.turn(&body, in_flight, calls).await?;
            cpu.add(&mut bytes, calls);
            let cpu = Cpu::watch(controller.id());
            let mut ours = ask(&*asked, &question, in_flight, calls).await?;
            cpu.add(&mut ours, calls);
            let cpu = Cpu::watch(dialler.id());
            let mut messages = floor.messages.turn(&wire, in_flight, calls).await?;
            cpu.add(&mut messages, calls);
            if round > 0 {
                to_messages.push((messages, ours));
                to_bytes.push((bytes, ours));
            }
        }
        rows.extend(lines("attached", in_flight, &compare(&to_messages), &compare(&to_bytes)));
    }
    Ok(rows)
}

async fn ask(asked: &dyn Controller, question: &AdmissionRequest, in_flight: usize, calls: usize) -> Result<Sample> {
    closed_loop(in_flight, calls, async |number| {
        let verdict = asked.admit(&fixtures::numbered(question, number)).await;
        if verdict.is_admitted() { Ok(()) } else { Err(format!("not admitted: {verdict:?}").into()) }
    })
    .await
}

fn lines(how: &str, in_flight: usize, messages: &Compared, bytes: &Compared) -> Vec<Row> {
    let Compared { floor, ours, p50_ratio, rate_ratio, cpu_ratio } = *messages;
    let row = |what: &str| format!("question to a controller, {how}, {in_flight} in flight: {what}");
    let to_bytes = |what| format!("{} to an echo of opaque bytes", row(what));
    vec![
        Row::at_most(row("p50"), floor.p50, ours.p50, p50_ratio, 1.3),
        Row::at_least(row("rate"), floor.rate, ours.rate, rate_ratio, 0.75),
        Row::at_most(row("processor time of both sides"), floor.cpu, ours.cpu, cpu_ratio, 1.3).beside(),
        Row::at_most(to_bytes("p50"), bytes.floor.p50, bytes.ours.p50, bytes.p50_ratio, 1.3).beside(),
        Row::at_least(to_bytes("rate"), bytes.floor.rate, bytes.ours.rate, bytes.rate_ratio, 0.75).beside(),
    ]
}

/// A router in this process, with one controller.
async fn router(folder: &Path, controller: &str) -> Result<Bound> {
    let text = format!("listen: 127.0.0.1:0\ncontrollers:\n  - {controller}\n");
    let config = Config::parse(&Source::new("bench", text), folder).map_err(|faults| faults.to_string())?;
    Ok(Router::new(config, Arc::new(NoPolicies)).store(MemoryStore).bind().await?)
}

async fn until_attached(asked: &dyn Controller, question: &AdmissionRequest) -> Result<()> {
    for _ in 0..1000 {
        let verdict = asked.admit(question).await;
        match verdict.failure().map(jobgate_sdk::Failure::cause) {
            None => return Ok(()),
            Some(FailureCause::NotAttached) => tokio::time::sleep(Duration::from_millis(10)).await,
            Some(_) => return Err(format!("{verdict:?}").into()),
        }
    }
    Err("the controller did not attach within 10 s".into())
}
