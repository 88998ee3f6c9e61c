# Finds faults in the dependencies that users get, with all features and on every platform; prints
# one line for each. Reads `cargo metadata`. Ignores dev-dependencies, which users do not get.

# Licences that may apply to a dependency.
def allowed: ["Apache-2.0", "BSD-3-Clause", "BSL-1.0", "ISC", "MIT", "Unicode-3.0", "Zlib"];
# Allowed in two versions, as long as a dependency needs the older one.
def twice: ["base64", "getrandom", "reqwest", "syn", "tower-http", "windows-sys"];
# TLS is rustls with ring.
def banned: ["aws-lc-sys", "native-tls", "openssl-sys"];

# Every part of an `AND` must offer an allowed licence.
def is_allowed:
    [splits(" AND ") | ltrimstr("(") | rtrimstr(")") | [splits(" OR | ?/ ?")] | any(. as $one | allowed | index($one))] | all;

([.resolve.nodes[] | {key: .id, value: [.deps[] | select(any(.dep_kinds[]; .kind != "dev")) | .pkg]}] | from_entries) as $needs
| (.resolve.root) as $root
| ({seen: {}, next: [$root]} | until(.next == [];
    .next[0] as $id
    | if .seen[$id] then .next |= .[1:] else .seen[$id] = true | .next = .next[1:] + $needs[$id] end)
    | .seen) as $shipped
| [.packages[] | select($shipped[.id] and .id != $root)] as $all
| ($all[]
    | "\(.name) \(.version)" as $it
    | (select((.license // "none") | is_allowed | not) | "\($it): licence \(.license // "none")"),
      (select(.source != "registry+https://github.com/rust-lang/crates.io-index") | "\($it): from \(.source // "a path")"),
      (select(.name as $name | banned | index($name)) | "\($it): banned")),
  ($all | group_by(.name)[] | select(length > 1)
    | select(.[0].name as $name | twice | index($name) | not)
    | "\(.[0].name): versions \([.[].version] | join(", "))"),
  (twice[] as $name | select([$all[] | select(.name == $name)] | length < 2) | "\($name): one version only, no exception needed")
