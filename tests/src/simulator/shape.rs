//! Shapes of networks: which hosts share which links.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Hosts, and links as lists of their members.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Number of hosts.
    pub hosts: usize,
    /// Members of each link.
    pub links: Vec<Vec<usize>>,
}

impl Shape {
    /// One link with everybody on it.
    pub fn segment(hosts: usize) -> Self {
        Self { hosts, links: vec![(0..hosts).collect()] }
    }

    /// A chain.
    pub fn line(hosts: usize) -> Self {
        Self { hosts, links: (1..hosts).map(|host| vec![host - 1, host]).collect() }
    }

    /// A closed chain.
    pub fn ring(hosts: usize) -> Self {
        Self { hosts, links: (0..hosts).map(|host| vec![host, (host + 1) % hosts]).collect() }
    }

    /// Hosts in rows and columns, linked to the next ones right and below.
    pub fn grid(columns: usize, rows: usize) -> Self {
        let at = |column: usize, row: usize| row * columns + column;
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (column, row)));
        let links = cells.flat_map(|(column, row)| {
            let right = (column + 1 < columns).then(|| vec![at(column, row), at(column + 1, row)]);
            let below = (row + 1 < rows).then(|| vec![at(column, row), at(column, row + 1)]);
            right.into_iter().chain(below)
        });
        Self { hosts: columns * rows, links: links.collect() }
    }

    /// A random tree with `extra` more links.
    pub fn random(hosts: usize, extra: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |bound: usize| usize::try_from(rng.next_u64() % bound as u64).expect("below a usize");
        let mut links: Vec<_> = (1..hosts).map(|host| vec![below(host), host]).collect();
        while links.len() < hosts - 1 + extra {
            let (a, b) = (below(hosts), below(hosts));
            if a != b {
                links.push(vec![a, b]);
            }
        }
        Self { hosts, links }
    }
}
