//! Circuits around tower services: [`CircuitBreakerLayer`] and [`CircuitBreakerService`].
//!
//! Owns how a call passes through a service. The circuit decides whether a call is made, a
//! [`Classifier`] what its result means, and a [`Refusals`] what the caller gets for a call that is
//! not made. For tower 0.5, http 1 and http-body 1, so for axum 0.8, hyper 1 and tonic 0.14.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{CallError, Commontrip, Override, Policy, tower::CircuitBreakerLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let circuits = Commontrip::embedded()?;
//! let payments = circuits.circuit("payments", Policy::default())?;
//! let service = ServiceBuilder::new()
//!     .layer(CircuitBreakerLayer::new(payments.clone()))
//!     .service(service_fn(async |amount: u32| Ok::<_, std::io::Error>(amount)));
//!
//! assert_eq!(service.clone().oneshot(42).await?, 42);
//! payments.force_open(Override::because("upgrade")).await?;
//! assert!(matches!(service.oneshot(42).await, Err(CallError::Rejected(_))));
//! # Ok(()) }
//! ```

mod circuits;
mod classifier;
mod future;
mod grpc;
mod layer;
mod refusals;
mod retry;
mod service;

pub use self::{
    circuits::{Circuits, PerKey},
    classifier::{ByResult, Classifier, Http, HttpBody, UnlessOurs},
    future::ResponseFuture,
    grpc::Grpc,
    layer::CircuitBreakerLayer,
    refusals::{BoxErrors, Errors, GrpcResponses, HttpResponses, Refusals, Refused, RespondWith},
    retry::UnlessRejected,
    service::CircuitBreakerService,
};
#[doc(inline)]
pub use crate::http::SettlingBody;
