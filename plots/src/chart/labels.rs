//! Places for names beside the ends of lines, none on top of another.

/// Moves wished-for places as little as needed so that neighbours are `gap` apart and all lie in `low..=high` where
/// they fit. The answer has the order of the question.
///
/// Neighbours that are too close form a block around the mean of their wishes (the pool-adjacent-violators method,
/// which minimises the sum of squared moves).
pub(crate) fn spread(wishes: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by(|a, b| wishes[*a].total_cmp(&wishes[*b]).then(a.cmp(b)));
    // A block is its mean wish, measured at its first member, and its size.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (rank, index) in order.iter().enumerate() {
        let mut block = (wishes[*index].clamp(low, high) - rank as f64 * gap, 1);
        while let Some(above) = blocks.pop_if(|b| b.0 > block.0) {
            let size = above.1 + block.1;
            block = ((above.0 * above.1 as f64 + block.0 * block.1 as f64) / size as f64, size);
        }
        blocks.push(block);
    }
    let last = wishes.len().saturating_sub(1) as f64 * gap;
    let mut places = vec![0.0; wishes.len()];
    let mut rank = 0;
    for (base, size) in blocks {
        let base = base.min(high - last).max(low);
        for _ in 0..size {
            places[order[rank]] = base + rank as f64 * gap;
            rank += 1;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apart(places: &[f64], gap: f64) -> bool {
        let mut sorted = places.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.windows(2).all(|w| w[1] - w[0] >= gap - 1e-9)
    }

    #[test]
    fn labels_with_room_stay_where_they_wish() {
        assert_eq!(spread(&[50.0, 10.0, 90.0], 15.0, 0.0, 100.0), [50.0, 10.0, 90.0]);
    }

    #[test]
    fn crowded_labels_spread_around_their_middle_and_keep_their_order() {
        let wishes = [50.0, 51.0, 49.0];
        let places = spread(&wishes, 10.0, 0.0, 100.0);
        assert!(apart(&places, 10.0) && !apart(&wishes, 10.0));
        assert!(places[2] < places[0] && places[0] < places[1] && (places[0] - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_crowd_at_an_edge_stays_inside() {
        for edge in [0.0, 100.0] {
            let places = spread(&[edge; 6], 15.0, 0.0, 100.0);
            assert!(apart(&places, 15.0), "{places:?}");
            assert!(places.iter().all(|p| (-1e-9..=100.0 + 1e-9).contains(p)), "{places:?}");
        }
    }

    #[test]
    fn no_labels_need_no_places() {
        assert!(spread(&[], 10.0, 0.0, 1.0).is_empty());
    }
}
