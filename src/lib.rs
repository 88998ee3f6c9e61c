//! One circuit breaker for every replica of a service, shared through Redis.
