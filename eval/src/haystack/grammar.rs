//! Plain sentences made from a seed: a haystack that no model was trained on and that holds no number.

use crate::rng::SplitMix64;

#[rustfmt::skip]
const SUBJECTS: [&str; 40] = [
    "the miller", "the old sailor", "a young doctor", "the baker", "the schoolmaster", "her cousin", "the gardener",
    "a tall stranger", "the widow", "the postman", "the carpenter", "his sister", "the judge", "the shepherd",
    "a quiet child", "the innkeeper", "the painter", "the night watchman", "their neighbour", "the librarian",
    "the ferryman", "a travelling merchant", "the weaver", "the organist", "the captain", "a retired teacher",
    "the blacksmith", "the clerk", "the astronomer", "the beekeeper", "my grandmother", "the tailor", "a young priest",
    "the cook", "the lighthouse keeper", "the coachman", "the apprentice", "the botanist", "a friend of ours",
    "the potter",
];

#[rustfmt::skip]
const VERBS: [&str; 40] = [
    "carried", "painted", "forgot", "repaired", "found", "described", "borrowed", "sold", "hid", "admired", "lost",
    "cleaned", "measured", "remembered", "bought", "wrapped", "drew", "brought", "examined", "praised", "returned",
    "mended", "counted", "burned", "washed", "kept", "opened", "weighed", "copied", "polished", "offered", "missed",
    "showed", "followed", "gathered", "planted", "guarded", "exchanged", "collected", "studied",
];

#[rustfmt::skip]
const OBJECTS: [&str; 40] = [
    "a basket of apples", "the broken lamp", "an old map", "the silver spoon", "a letter from abroad",
    "the wooden ladder", "a pair of boots", "the church bell", "a bundle of dry grass", "the heavy coat",
    "a bottle of ink", "the garden gate", "a loaf of dark bread", "the brass telescope", "a jar of honey",
    "the blue curtain", "a sack of flour", "the stone bench", "a small violin", "the copper kettle", "a book of songs",
    "the fishing net", "a piece of chalk", "the iron key", "a bowl of soup", "the painted sign", "a box of candles",
    "the long rope", "a woollen blanket", "the oak table", "a bunch of keys", "the empty barrel", "a faded photograph",
    "the kitchen clock", "a cup of tea", "the lost umbrella", "a handful of seeds", "the leather bag",
    "a drawing of a ship", "the garden chair",
];

#[rustfmt::skip]
const PLACES: [&str; 40] = [
    "near the river", "behind the mill", "in the market", "at the station", "under the bridge", "on the hill",
    "beside the lake", "in the cellar", "at the edge of the forest", "in the old harbour", "outside the chapel",
    "by the fireplace", "in the orchard", "along the coast", "in the attic", "at the corner of the square",
    "in the village school", "on the upper deck", "in the narrow lane", "beyond the fields", "at the town hall",
    "in the greenhouse", "by the well", "on the stairs", "in the waiting room", "at the foot of the mountain",
    "in a quiet street", "on the island", "in the workshop", "beside the canal", "at the inn", "in the valley",
    "behind the barn", "in the library", "by the northern gate", "on the beach", "in the courtyard", "at the theatre",
    "in the empty hall", "near the lighthouse",
];

#[rustfmt::skip]
const TIMES: [&str; 30] = [
    "before breakfast", "after the storm", "late in the evening", "on a cold morning", "during the harvest",
    "at the end of summer", "without a word", "as he had promised", "in the first snow", "while everyone slept",
    "on the way home", "just before dawn", "for the third time", "with great care", "after a long silence",
    "in the middle of the night", "because of the rain", "when the music stopped", "to everyone's surprise",
    "as quickly as possible", "on the last day of the fair", "long before the others", "despite the wind",
    "in spite of the warning", "for no clear reason", "out of habit", "at the sound of the bell", "against all advice",
    "with a tired smile", "when the tide was low",
];

#[rustfmt::skip]
const OPENINGS: [&str; 12] = [
    "", "", "", "", "", "Some days later ", "In those years ", "That winter ", "Not long afterwards ",
    "Once more ", "To be fair, ", "As far as anyone knows, ",
];

/// One sentence.
pub(super) fn sentence(rng: &mut SplitMix64) -> String {
    let (opening, subject) = (pick(rng, &OPENINGS), pick(rng, &SUBJECTS));
    let (verb, object) = (pick(rng, &VERBS), pick(rng, &OBJECTS));
    let (place, time) = (pick(rng, &PLACES), pick(rng, &TIMES));
    let text = match rng.below(3) {
        0 => format!("{opening}{subject} {verb} {object} {place}."),
        1 => format!("{opening}{subject} {verb} {object} {time}."),
        _ => format!("{opening}{subject} {verb} {object} {place} {time}."),
    };
    capital(&text)
}

fn pick<'w>(rng: &mut SplitMix64, words: &[&'w str]) -> &'w str {
    words[rng.below(words.len())]
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
