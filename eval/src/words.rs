//! English words for keys and lists, and as many more as a long list needs.

use crate::rng::SplitMix64;

#[rustfmt::skip]
const NOUNS: &[&str] = &[
    "acorn", "anchor", "apple", "apron", "arrow", "autumn", "badge", "balloon", "banner", "barn", "basket", "beacon",
    "bench", "berry", "blanket", "bottle", "branch", "bread", "bridge", "brush", "bucket", "butter", "button", "cabin",
    "cable", "candle", "canyon", "carpet", "castle", "cedar", "cellar", "chain", "chair", "cherry", "chimney", "circle",
    "cliff", "clock", "cloud", "clover", "coast", "comet", "copper", "coral", "cotton", "cradle", "creek", "crown",
    "curtain", "desert", "dragon", "drum", "eagle", "ember", "engine", "falcon", "feather", "fence", "fern", "field",
    "flame", "flute", "forest", "fountain", "garden", "garlic", "gate", "glacier", "glove", "grape", "gravel", "guitar",
    "hammer", "harbor", "harvest", "hawk", "hazel", "helmet", "hill", "hollow", "honey", "horizon", "island", "ivory",
    "jacket", "jewel", "kettle", "kitten", "ladder", "lagoon", "lantern", "lemon", "letter", "lily", "linen", "lizard",
    "magnet", "maple", "marble", "market", "meadow", "melon", "mirror", "mountain", "mustard", "needle", "nest", "novel",
    "oasis", "ocean", "olive", "onion", "orchard", "otter", "oven", "oyster", "paddle", "palace", "parcel", "pasture",
    "pebble", "pencil", "pepper", "piano", "pigeon", "pillow", "pine", "planet", "pocket", "pond", "poppy", "prairie",
    "puzzle", "quarry", "quilt", "rabbit", "raven", "reed", "ribbon", "river", "rocket", "rooster", "saddle", "salmon",
    "sandal", "scarf", "shadow", "shell", "shelter", "silver", "sparrow", "spider", "spoon", "stable", "station", "steam",
    "stone", "stream", "summit", "swallow", "table", "temple", "thistle", "thunder", "ticket", "timber", "tower", "trail",
    "tulip", "tunnel", "turtle", "valley", "velvet", "village", "violin", "walnut", "wagon", "water", "willow", "window",
    "winter", "wolf", "wood", "yarn",
];

#[rustfmt::skip]
const ADJECTIVES: &[&str] = &[
    "able", "ancient", "bitter", "bold", "brave", "brief", "bright", "broad", "busy", "calm", "careful", "cheerful",
    "clean", "clear", "clever", "cold", "crisp", "curious", "damp", "dark", "deep", "distant", "dusty", "eager", "early",
    "easy", "empty", "even", "faint", "fair", "famous", "fast", "fierce", "fine", "firm", "flat", "fond", "fresh",
    "friendly", "gentle", "giant", "golden", "grand", "grateful", "green", "happy", "hasty", "heavy", "hidden", "honest",
    "humble", "hungry", "idle", "joyful", "keen", "kind", "large", "lasting", "late", "lazy", "light", "lively", "lonely",
    "loud", "loyal", "lucky", "mellow", "merry", "mighty", "mild", "modest", "narrow", "neat", "noble", "noisy", "odd",
    "pale", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "rare", "ready", "restless", "rich", "rough",
    "round", "rustic", "salty", "shallow", "sharp", "shiny", "short", "shy", "silent", "simple", "sleepy", "slender",
    "slow", "smooth", "soft", "solid", "spare", "steady", "steep", "strange", "strict", "strong", "sturdy", "subtle",
    "sunny", "sweet", "swift", "tall", "tender", "thick", "thin", "tidy", "timid", "tiny", "tired", "upper", "vast",
    "vivid", "warm", "weary", "wide", "wild", "wise", "witty", "young",
];

#[rustfmt::skip]
const VERBS: &[&str] = &[
    "accept", "admire", "advise", "agree", "answer", "arrive", "assist", "attend", "bake", "balance", "begin", "borrow",
    "bounce", "breathe", "build", "carry", "carve", "chase", "choose", "climb", "collect", "compare", "complain", "cook",
    "count", "cross", "decide", "deliver", "describe", "discover", "dive", "divide", "earn", "enjoy", "enter", "escape",
    "explain", "explore", "fasten", "finish", "float", "follow", "forget", "gather", "grow", "guess", "hesitate", "hope",
    "hurry", "imagine", "improve", "invent", "invite", "join", "juggle", "knit", "laugh", "learn", "listen", "measure",
    "mend", "notice", "obey", "observe", "offer", "paint", "pause", "perform", "plant", "play", "pour", "practise",
    "prefer", "prepare", "promise", "pull", "push", "reach", "receive", "remember", "repair", "repeat", "rescue", "rest",
    "return", "sail", "scatter", "search", "settle", "share", "shout", "sing", "sketch", "smile", "solve", "spread",
    "stir", "stretch", "study", "teach", "throw", "travel", "trust", "visit", "wander", "whisper", "wonder", "write",
];

/// A version 4 UUID.
pub(crate) fn uuid(rng: &mut SplitMix64) -> String {
    let (high, low) = (rng.next_u64(), rng.next_u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff
    )
}

/// How many plain words there are.
pub(crate) fn plain_count() -> usize {
    NOUNS.len() + ADJECTIVES.len() + VERBS.len()
}

/// A key such as `amber-river`: an adjective and a noun.
pub(crate) fn hyphenated(rng: &mut SplitMix64) -> String {
    format!("{}-{}", ADJECTIVES[rng.below(ADJECTIVES.len())], NOUNS[rng.below(NOUNS.len())])
}

/// `count` different nouns; fewer when there are fewer.
pub(crate) fn nouns(rng: &mut SplitMix64, count: usize) -> Vec<&'static str> {
    sampled(NOUNS.len(), count.min(NOUNS.len()), rng).into_iter().map(|index| NOUNS[index]).collect()
}

/// `count` different words: plain ones while they last, else words joined of two (`riverstone`), of which there are tens of
/// thousands, else joined words with a number.
pub(crate) fn distinct(rng: &mut SplitMix64, count: usize) -> Vec<String> {
    if count <= plain_count() {
        return sampled(plain_count(), count, rng).into_iter().map(|index| plain(index).to_owned()).collect();
    }
    let joined = NOUNS.len() * NOUNS.len();
    let total = joined * count.div_ceil(joined);
    sampled(total, count, rng)
        .into_iter()
        .map(|index| {
            let (turn, pair) = (index / joined, index % joined);
            let word = format!("{}{}", NOUNS[pair / NOUNS.len()], NOUNS[pair % NOUNS.len()]);
            if turn == 0 { word } else { format!("{word}{turn}") }
        })
        .collect()
}

fn plain(index: usize) -> &'static str {
    let words = NOUNS.iter().chain(ADJECTIVES).chain(VERBS);
    words.copied().nth(index).unwrap_or("word")
}

/// `count` different numbers below `bound`, in random order; all of them when there are no more.
pub(crate) fn sampled(bound: usize, count: usize, rng: &mut SplitMix64) -> Vec<usize> {
    // Fisher and Yates on the few places that are touched.
    let mut moved = std::collections::HashMap::new();
    (0..count.min(bound))
        .map(|i| {
            let j = i + rng.below(bound - i);
            let chosen = moved.get(&j).copied().unwrap_or(j);
            let displaced = moved.get(&i).copied().unwrap_or(i);
            moved.insert(j, displaced);
            chosen
        })
        .collect()
}

/// Brings `items` into random order.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut SplitMix64) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn plain_words_are_all_different() {
        let all: BTreeSet<&str> = (0..plain_count()).map(plain).collect();
        assert_eq!(all.len(), plain_count());
        assert!(all.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase())));
    }

    #[test]
    fn any_number_of_different_words_can_be_had() {
        let mut rng = SplitMix64::new(3);
        for count in [0, 1, plain_count(), plain_count() + 1, 9000, 50_000] {
            let words: BTreeSet<String> = distinct(&mut rng, count).into_iter().collect();
            assert_eq!(words.len(), count);
        }
    }

    #[test]
    fn samples_are_different_numbers_below_their_bound_and_all_are_possible() {
        let mut rng = SplitMix64::new(1);
        let mut seen = [0_u32; 6];
        for _ in 0..6000 {
            let drawn = sampled(6, 2, &mut rng);
            assert_ne!(drawn[0], drawn[1]);
            drawn.iter().for_each(|&i| seen[i] += 1);
        }
        assert!(seen.iter().all(|n| (1_800..2_200).contains(n)), "{seen:?}");
        let mut all = sampled(6, 9, &mut rng);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn uuids_say_that_they_are_random() {
        let mut rng = SplitMix64::new(5);
        for _ in 0..100 {
            let uuid = uuid(&mut rng);
            let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12]);
            assert!(uuid.as_bytes()[14] == b'4' && b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
        }
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        shuffle(&mut items, &mut SplitMix64::new(2));
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
