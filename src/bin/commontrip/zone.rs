//! Times as people read them, in their time zone.

use jiff::{Timestamp, tz::TimeZone};

/// The time zone of displayed times.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of `TZ`, otherwise that of this machine; UTC if neither can be determined.
    pub fn local() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// A time with its zone: `2026-11-21 17:40:03 CET`; `-` for 0.
    pub fn date(&self, ms: u64) -> String {
        self.written(ms, "%Y-%m-%d %H:%M:%S %Z")
    }

    /// The time of day: `17:40:03`.
    pub fn time_of_day(&self, ms: u64) -> String {
        self.written(ms, "%H:%M:%S")
    }

    /// The name of the zone at a time: `CET`, `UTC`.
    pub fn name(&self, ms: u64) -> String {
        self.written(ms.max(1), "%Z")
    }

    fn written(&self, ms: u64, format: &str) -> String {
        if ms == 0 {
            return "-".to_owned();
        }
        let time = i64::try_from(ms).map(Timestamp::from_millisecond);
        // A time beyond the supported range is written as the last supported one.
        let time = time.ok().and_then(Result::ok).unwrap_or(Timestamp::MAX);
        time.to_zoned(self.0.clone()).strftime(format).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_an_end() {
        let utc = Zone::utc();
        assert_eq!(utc.date(0), "-");
        assert_eq!(utc.date(1_795_279_203_000), "2026-11-21 16:40:03 UTC");
        assert_eq!(utc.time_of_day(1_795_279_203_000), "16:40:03");
        assert!(utc.date(u64::MAX).starts_with("9999-12-3"));
        let east = Zone(TimeZone::posix("EST-3").unwrap());
        assert_eq!(east.date(1_795_279_203_000), "2026-11-21 19:40:03 EST");
        assert!(east.date(u64::MAX).starts_with("9999-12-3"));
        assert_eq!(east.name(0), "EST");
    }
}
