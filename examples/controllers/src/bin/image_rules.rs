//! cargo run -p jobgate-examples --bin image_rules
//!
//! Rules about images: only from our registry, never `latest`. Judges what will run (`registry`, `tag`), never the name as
//! written, and the services beside the job as well.

use jobgate_sdk::{AdmissionRequest, Controller, Image, ServeError, Verdict, async_trait};

/// Admits images of one registry, pinned to a tag or digest.
pub struct ImageRules {
    /// The registry, as `registry.acme.example`.
    pub registry: String,
}

#[async_trait]
impl Controller for ImageRules {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        let job = request.job();
        let services = job.services.iter().filter_map(|service| service.image.as_ref());
        let mut faults = job.image.iter().chain(services).filter_map(|image| self.fault(image));
        // The first fault is the reason; a job's owner repairs one thing at a time.
        faults.next().unwrap_or_else(Verdict::admit)
    }
}

impl ImageRules {
    fn fault(&self, image: &Image) -> Option<Verdict> {
        let name = &image.name;
        if image.unresolved {
            let reason = format!("{name} has a variable that only the runner can fill in; write the image out");
            return Some(Verdict::reject(reason).rule("resolved"));
        }
        if image.registry.as_deref() != Some(&self.registry) {
            return Some(Verdict::reject(format!("{name} is not from {}", self.registry)).rule("own-registry"));
        }
        if image.digest.is_none() && image.tag.as_deref() == Some("latest") {
            return Some(Verdict::reject(format!("{name} is not pinned; add a tag or a digest")).rule("pinned"));
        }
        None
    }
}

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    jobgate_examples::run(ImageRules { registry: "registry.acme.example".into() }).await
}
