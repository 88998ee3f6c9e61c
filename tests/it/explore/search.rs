//! Breadth-first search over canonical states, and reverse reachability of Closed.
//!
//! This is not based on a model checker such as stateright, for three reasons. The states are those
//! of the real circuit, which a key has to represent. The question whether every state can reach
//! Closed needs the whole graph. And breadth-first order yields a shortest trace anyway. An adapter
//! would be longer than this code. A state is stored as 128 bits of hash and the step that led to
//! it; only the frontier is kept in full.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hasher},
};

use super::{
    canon::key,
    scope::{Rule, Scope, Violation},
    world::{Step, World},
};

/// The result of an exploration.
pub struct Found {
    pub states: usize,
    pub transitions: usize,
    /// The length of the longest shortest path.
    pub depth: usize,
    pub broken: Option<(Rule, String)>,
}

#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    step: Step,
}

struct Graph {
    nodes: Vec<Node>,
    /// Steps without faults: from, to.
    fair: Vec<(u32, u32)>,
    closed: Vec<u32>,
    transitions: usize,
}

fn hash(bytes: &[u8]) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Visits every state of a scope, or stops at the first that breaks a rule.
pub fn explore(scope: &Scope) -> Found {
    let mut graph = Graph {
        nodes: vec![Node {
            parent: 0,
            step: Step::Tick,
        }],
        fair: Vec::new(),
        closed: Vec::new(),
        transitions: 0,
    };
    let first = World::new(scope);
    let mut known = HashMap::from([(hash(&key(&first, scope)), 0u32)]);
    let mut front = VecDeque::from([(0u32, 0usize, first)]);
    let mut depth = 0;
    while let Some((from, at, world)) = front.pop_front() {
        depth = at;
        if world.is_closed() {
            graph.closed.push(from);
        }
        for step in world.steps(scope) {
            graph.transitions += 1;
            let next = match world.after(scope, step) {
                Ok(next) => next,
                Err(violation) => return graph.broken(scope, depth, from, Some(step), &violation),
            };
            let fresh = graph.nodes.len() as u32;
            let to = *known.entry(hash(&key(&next, scope))).or_insert(fresh);
            if to == fresh {
                graph.nodes.push(Node { parent: from, step });
                front.push_back((to, at + 1, next));
            }
            if step.is_fair() && to != from {
                graph.fair.push((from, to));
            }
        }
    }
    drop(known);
    if let Some(stuck) = graph.cannot_close() {
        let what = "no way leads from here to Closed".to_owned();
        let rule = Rule::ClosesAgain;
        return graph.broken(scope, depth, stuck, None, &Violation { rule, what });
    }
    graph.found(depth, None)
}

/// Checks the equivalence of states: states with the same key must lead to the same keys. Returns
/// the number of compared states.
pub fn states_of_one_key_go_on_alike(scope: &Scope) -> usize {
    let future = |world: &World| -> BTreeMap<u128, Step> {
        let after = |step| {
            let next = world.after(scope, step).ok();
            (next.map_or(0, |next| hash(&key(&next, scope))), step)
        };
        world.steps(scope).into_iter().map(after).collect()
    };
    let first = World::new(scope);
    let mut known = HashMap::from([(key(&first, scope), future(&first))]);
    let mut front = VecDeque::from([first]);
    let mut compared = 0;
    while let Some(world) = front.pop_front() {
        for step in world.steps(scope) {
            let Ok(next) = world.after(scope, step) else {
                continue;
            };
            let (key, future) = (key(&next, scope), future(&next));
            if let Some(same) = known.get(&key) {
                let only = |a: &BTreeMap<u128, Step>, b: &BTreeMap<u128, Step>| -> Vec<String> {
                    let only = a.iter().filter(|(key, _)| !b.contains_key(key));
                    only.map(|(_, step)| step.to_string()).collect()
                };
                assert_eq!(
                    only(same, &future),
                    only(&future, same),
                    "{}, after {step}: {}",
                    scope.name,
                    next.in_words()
                );
                compared += 1;
            } else {
                known.insert(key, future);
                front.push_back(next);
            }
        }
    }
    compared
}

impl Graph {
    fn found(&self, depth: usize, broken: Option<(Rule, String)>) -> Found {
        let (states, transitions) = (self.nodes.len(), self.transitions);
        Found {
            states,
            transitions,
            depth,
            broken,
        }
    }

    /// The first state from which no steps without faults lead to a closed circuit.
    fn cannot_close(&mut self) -> Option<u32> {
        self.fair.sort_unstable_by_key(|(_, to)| *to);
        let mut reached = vec![false; self.nodes.len()];
        let mut todo = self.closed.clone();
        todo.iter()
            .for_each(|state| reached[*state as usize] = true);
        while let Some(state) = todo.pop() {
            let start = self.fair.partition_point(|(_, to)| *to < state);
            for (from, to) in &self.fair[start..] {
                if *to != state {
                    break;
                }
                if !std::mem::replace(&mut reached[*from as usize], true) {
                    todo.push(*from);
                }
            }
        }
        reached
            .iter()
            .position(|reached| !reached)
            .map(|i| i as u32)
    }

    fn broken(
        &self,
        scope: &Scope,
        depth: usize,
        mut at: u32,
        last: Option<Step>,
        violation: &Violation,
    ) -> Found {
        let mut steps: Vec<_> = last.into_iter().collect();
        while at != 0 {
            let node = self.nodes[at as usize];
            steps.push(node.step);
            at = node.parent;
        }
        steps.reverse();
        let mut world = World::new(scope);
        let mut trace = format!("{:?}: {}\n", violation.rule, violation.what);
        for (i, step) in steps.into_iter().enumerate() {
            trace += &format!("{:3}. {step}\n", i + 1);
            if let Ok(next) = world.after(scope, step) {
                world = next;
                trace += &format!("       {}\n", world.in_words());
            }
        }
        self.found(depth, Some((violation.rule, trace)))
    }
}
