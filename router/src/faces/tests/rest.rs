use super::support::{ACME, ALL, Setup, document};

#[tokio::test]
async fn a_job_is_submitted_looked_at_and_canceled() {
    let world = Setup::guarded().start().await;
    let answer = world.post("/v1/jobs", ALL, &document("acme/api")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let id = answer.json()["jobs"][0]["id"].as_str().unwrap().to_owned();

    let record = world.get(&format!("/v1/jobs/{id}"), ALL).await.json();
    assert_eq!(record["project"], "acme/api");
    let list = world.get("/v1/jobs?project=ACME/api&limit=5", ALL).await.json();
    assert_eq!(list["jobs"][0]["id"], id.as_str());
    assert_eq!(list["next_page_token"], "");

    let canceled = world.http("POST", &format!("/v1/jobs/{id}/cancel"), ALL, "", "").await.json();
    assert_eq!(canceled["state"], "canceled");
    let again = world.http("POST", &format!("/v1/jobs/{id}/cancel"), ALL, "", "").await;
    assert_eq!((again.status, again.code().as_str()), (409, "already_finished"));
}
