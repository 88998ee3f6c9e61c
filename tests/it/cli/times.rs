//! Times are in the local zone, which is printed, or in UTC.

use commontrip::Override;

use super::{Ran, Service, program};
use crate::support::redis_url;

async fn run_in(zone: &str, service: &Service, arguments: &[&str]) -> Ran {
    let mut command = program(arguments);
    command.args(["--redis", redis_url(), "--prefix", &service.prefix]);
    command.args(["--timeout", "20000"]).env("TZ", zone);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap().into()
}

#[tokio::test]
async fn times_are_local_and_say_their_zone_unless_utc_is_asked_for() {
    let service = Service::new("cli-times");
    let breaker = service.circuit("payments", 5, 30).await;
    let drill = Override::because("drill").by("ana");
    let lasting = drill.lasting(std::time::Duration::from_secs(3600));
    breaker.disable(lasting).await.unwrap();
    for command in [
        &["show", "payments"][..],
        &["events"],
        &["events", "payments"],
        &["simulate", "payments"],
    ] {
        let local = run_in("XYZ-13", &service, command).await;
        assert!(local.out.contains(" XYZ"), "{command:?} {local:?}");
        assert!(!local.out.contains("UTC"), "{command:?} {local:?}");
        let utc = [command, &["--utc"]].concat();
        let utc = run_in("XYZ-13", &service, &utc).await;
        assert!(utc.out.contains(" UTC"), "{command:?} {utc:?}");
        assert!(!utc.out.contains("XYZ"), "{command:?} {utc:?}");
        let nowhere = run_in("Nowhere/Nothing", &service, command).await;
        assert!(nowhere.out.contains(" UTC"), "{command:?} {nowhere:?}");
    }
    let json = ["events", "--json"];
    let local = run_in("XYZ-13", &service, &json).await;
    assert_eq!(local.out, run_in("UTC0", &service, &json).await.out);
}
