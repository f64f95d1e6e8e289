//! A Bloom filter over digests: says of most segments that a record is not in them.
//!
//! Its bits are kept in the file, so its layout is part of the format and belongs to no other crate. Digests are
//! uniform already, so it needs no hash function.

use semel::digest::Digest;

/// Bits per digest and probes: one digest in a thousand is let through wrongly, none is kept out wrongly.
const BITS_PER_DIGEST: u64 = 15;
const PROBES: u64 = 10;

/// Which digests a segment may hold.
#[derive(Debug)]
pub(crate) struct Filter(Vec<u64>);

impl Filter {
    pub(crate) fn new<'a>(digests: impl ExactSizeIterator<Item = &'a Digest>) -> Self {
        let bits = u64::try_from(digests.len()).unwrap_or(u64::MAX / BITS_PER_DIGEST) * BITS_PER_DIGEST;
        let words = usize::try_from(bits / 64 + 1).expect("a segment's filter fits into memory");
        let mut filter = Self(vec![0; words]);
        for digest in digests {
            for (word, bit) in probes(digest, words) {
                filter.0[word] |= bit;
            }
        }
        filter
    }

    pub(crate) fn may_hold(&self, digest: &Digest) -> bool {
        probes(digest, self.0.len()).all(|(word, bit)| self.0[word] & bit != 0)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// `None` when these are no filter's bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        (rest.is_empty() && !words.is_empty())
            .then(|| Self(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
    }
}

fn probes(digest: &Digest, words: usize) -> impl Iterator<Item = (usize, u64)> {
    let (start, step) = halves(digest);
    let bits = u128::try_from(words).expect("a length fits into 128 bits") * 64;
    (0..PROBES).map(move |probe| {
        let mixed = start.wrapping_add(probe.wrapping_mul(step));
        let bit = (u128::from(mixed) * bits) >> 64;
        let word = usize::try_from(bit / 64).expect("below the number of words");
        (word, 1 << (bit % 64))
    })
}

fn halves(digest: &Digest) -> (u64, u64) {
    let (words, _) = digest.as_bytes().as_chunks::<8>();
    // An even step would visit few bits when it is close to zero.
    (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
        Digest::from_bytes(bytes)
    }

    #[test]
    fn what_was_added_is_never_kept_out_and_few_others_are_let_through() {
        let inside: Vec<_> = (0..10_000).map(digest).collect();
        let filter = Filter::from_bytes(&Filter::new(inside.iter()).to_bytes()).unwrap();
        assert!(inside.iter().all(|digest| filter.may_hold(digest)));
        let wrong = (10_000..110_000).filter(|number| filter.may_hold(&digest(*number))).count();
        assert!(wrong < 300, "{wrong} of 100,000 were let through");
    }

    #[test]
    fn an_empty_segment_has_a_filter() {
        assert!(!Filter::new([].iter()).may_hold(&digest(1)));
    }
}
