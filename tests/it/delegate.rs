//! Delegation from a test's own store to the one that it wraps.

/// Methods of `Store` that forward to `self.inner`.
macro_rules! to_inner {
    ($($method:ident)*) => { $(crate::delegate::to_inner! { @ $method })* };
    (@ acquire) => {
        fn acquire<'a>(
            &'a self,
            circuit: &'a commontrip::Name,
            request: &'a commontrip::model::Acquire,
        ) -> commontrip::store::Answer<'a, commontrip::model::Grant> {
            self.inner.acquire(circuit, request)
        }
    };
    (@ report) => {
        fn report<'a>(
            &'a self,
            batch: &'a [(commontrip::Name, commontrip::model::Report)],
        ) -> commontrip::store::Answer<
            'a,
            Vec<Result<commontrip::Snapshot, commontrip::StoreError>>,
        > {
            self.inner.report(batch)
        }
    };
    (@ release) => {
        fn release<'a>(
            &'a self,
            circuit: &'a commontrip::Name,
            request: &'a commontrip::model::Release,
        ) -> commontrip::store::Answer<'a, commontrip::Snapshot> {
            self.inner.release(circuit, request)
        }
    };
    (@ control) => {
        fn control<'a>(
            &'a self,
            circuit: &'a commontrip::Name,
            request: &'a commontrip::model::Control,
        ) -> commontrip::store::Answer<'a, commontrip::Snapshot> {
            self.inner.control(circuit, request)
        }
    };
    (@ snapshot) => {
        fn snapshot<'a>(
            &'a self,
            circuit: &'a commontrip::Name,
            head: &'a commontrip::model::Head,
        ) -> commontrip::store::Answer<'a, commontrip::Snapshot> {
            self.inner.snapshot(circuit, head)
        }
    };
    (@ events) => {
        fn events<'a>(
            &'a self,
            circuit: &'a commontrip::Name,
            after: u64,
        ) -> commontrip::store::Answer<'a, Vec<commontrip::Event>> {
            self.inner.events(circuit, after)
        }
    };
    (@ circuits) => {
        fn circuits(&self) -> commontrip::store::Answer<'_, Vec<String>> {
            self.inner.circuits()
        }
    };
    (@ keep) => {
        fn keep<'a>(
            &'a self,
            key: &'a str,
            value: &'a [u8],
            for_ms: u64,
        ) -> commontrip::store::Answer<'a, ()> {
            self.inner.keep(key, value, for_ms)
        }
    };
    (@ kept) => {
        fn kept<'a>(&'a self, key: &'a str) -> commontrip::store::Answer<'a, Option<Vec<u8>>> {
            self.inner.kept(key)
        }
    };
    (@ lease) => {
        fn lease<'a>(
            &'a self,
            key: &'a str,
            owner: &'a str,
            for_ms: u64,
        ) -> commontrip::store::Answer<'a, bool> {
            self.inner.lease(key, owner, for_ms)
        }
    };
    (@ ping) => {
        fn ping(&self) -> commontrip::store::Answer<'_, ()> {
            self.inner.ping()
        }
    };
    (@ listen) => {
        fn listen(
            &self,
            followed: tokio::sync::watch::Receiver<std::collections::BTreeSet<commontrip::Name>>,
            notices: tokio::sync::mpsc::UnboundedSender<commontrip::store::Notice>,
        ) -> commontrip::store::Answer<'_, ()> {
            self.inner.listen(followed, notices)
        }
    };
}
pub(crate) use to_inner;
