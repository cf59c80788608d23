//! Controllers that the router dials.

use super::*;

fn dial(urls: Vec<String>) -> Dial {
    Dial { urls, ca: None, identity: None, server_name: None, token: None }
}

/// A dialled controller made of a function, with full control of what it answers.
struct Scripted<F>(F);

#[tonic::async_trait]
impl<F, Fut> AdmissionController for Scripted<F>
where
    F: Fn(AdmitRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AdmitResponse, Status>> + Send,
{
    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        (self.0)(request.into_inner()).await.map(Response::new)
    }
}

async fn scripted<F, Fut>(answer: F) -> (String, JoinHandle<()>)
where
    F: Fn(AdmitRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AdmitResponse, Status>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(AdmissionControllerServer::new(Scripted(answer)));
    let task = tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
    (url, task)
}

#[tokio::test]
async fn a_dialled_controller_that_answers_nonsense_fails_and_says_how() {
    let (url, _server) = scripted(|request| async move {
        match request.id.as_str() {
            "other" => Ok(admits("somebody-elses")),
            "empty" => Ok(AdmitResponse { id: request.id, ..AdmitResponse::default() }),
            "huge" => {
                let rejected = Rejected { reason: "x".repeat(1 << 20), ..Rejected::default() };
                let verdict = Some(admit_response::Verdict::Rejected(rejected));
                Ok(AdmitResponse { id: request.id, policy_version: String::new(), verdict })
            }
            "error" => Err(Status::internal("out of ideas")),
            "denied" => Err(Status::permission_denied("who are you")),
            _ => Ok(admits(&request.id)),
        }
    })
    .await;
    let controller = Dialled::new(&dial(vec![url])).unwrap();
    let ask = async |id: &str| controller.admit(&question(id, Duration::from_secs(5))).await;
    within(async {
        assert_eq!(cause(&ask("other").await), Some(FailureCause::Malformed));
        assert_eq!(cause(&ask("empty").await), Some(FailureCause::Malformed));
        assert_eq!(cause(&ask("huge").await), Some(FailureCause::Oversize));
        assert!(cause(&ask("error").await).is_some());
        assert_eq!(cause(&ask("denied").await), Some(FailureCause::Error));
        assert!(ask("fine").await.is_admitted());
    })
    .await;
    assert_eq!(controller.versions().borrow().iter().map(|v| &**v).collect::<Vec<_>>(), ["v1"]);
}

#[tokio::test]
async fn an_absent_controller_is_unreachable_and_so_is_one_that_speaks_something_else() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let controller = Dialled::new(&dial(vec![format!("http://{address}")])).unwrap();
    let verdict = within(controller.admit(&question("q", Duration::from_secs(5)))).await;
    assert_eq!(cause(&verdict), Some(FailureCause::Unreachable));
    assert_eq!(controller.reachable(), 0);

    let garbage = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", garbage.local_addr().unwrap());
    let _talker = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n\0\xff\xff").await;
        }
    });
    let controller = Dialled::new(&dial(vec![url])).unwrap();
    let verdict = within(controller.admit(&question("q", Duration::from_secs(5)))).await;
    assert!(verdict.failure().is_some());
}

#[tokio::test]
async fn when_one_instance_is_gone_another_is_asked_the_same_question() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let ids = asked.clone();
    let (there, _server) = scripted(move |request| {
        ids.lock().unwrap().push(request.id.clone());
        async move { Ok(admits(&request.id)) }
    })
    .await;
    let controller = Dialled::new(&dial(vec![gone, there])).unwrap();
    within(async {
        for id in ["q1", "q2", "q3", "q4"] {
            assert!(controller.admit(&question(id, Duration::from_secs(5))).await.is_admitted());
        }
    })
    .await;
    assert_eq!(*asked.lock().unwrap(), ["q1", "q2", "q3", "q4"]);
}

#[tokio::test]
async fn a_dialled_controller_with_tls_and_a_token() {
    let key = rcgen::generate_simple_self_signed(vec!["controller.example".to_owned()]).unwrap();
    let (cert, private) = (key.cert.pem(), key.signing_key.serialize_pem());
    let files = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&cert_file, &cert).unwrap();
    std::fs::write(&key_file, &private).unwrap();
    let tls = ServerTls::from_files(cert_file, key_file);
    let server = serve(|_: AdmissionRequest| async { Verdict::admit() })
        .listen("127.0.0.1:0".parse::<SocketAddr>().unwrap())
        .tls(tls)
        .token(Token::from_value(TOKEN))
        .bind()
        .await
        .unwrap();
    let url = format!("https://{}", server.local_addr());
    let _server = tokio::spawn(server.into_future());
    let with = |ca: Option<&str>, token: Option<&str>| Dial {
        ca: ca.map(|ca| ca.as_bytes().to_vec()),
        server_name: Some("controller.example".to_owned()),
        token: token.map(Secret::new),
        ..dial(vec![url.clone()])
    };
    let ask = async |dial: Dial| Dialled::new(&dial).unwrap().admit(&question("q", Duration::from_secs(5))).await;
    within(async {
        assert!(ask(with(Some(&cert), Some(TOKEN))).await.is_admitted());
        assert!(!ask(with(Some(&cert), Some("wrong-token-0123456789"))).await.is_admitted());
        assert!(!ask(with(Some(&cert), None)).await.is_admitted());
        let strange = ask(with(None, Some(TOKEN))).await;
        assert_eq!(cause(&strange), Some(FailureCause::Unreachable), "an unknown authority: {strange:?}");
        let text = format!("{strange:?}");
        assert!(!text.contains(TOKEN), "{text}");
    })
    .await;
}
