// Attention forward on Hopper (Shah et al. 2024, algorithm 2): one warpgroup has the copy engine bring tiles, the others compute
// 64 queries each over tiles of TILE_N keys. Weights stay in registers as the left factor of the second product; the product
// of the next scores is under way while weights are made of the ones before, and warpgroups take turns at the tensor cores.
//
// Grid: as many blocks as multiprocessors, each with pieces of 64 * CONSUMERS queries of one head, the last
// queries first since under a causal mask they have the most keys.

#define THREADS (WARPGROUP * (1 + CONSUMERS))
#define BLOCKS 1
#define KEY_BLOCKS (TILE_N / 8)
#define SLACK 8.0f

// Barriers of the block: whose turn it is at the tensor cores, and a warpgroup's own.
#define TURN(group) (1 + (group))
#define OWN(group) (1 + CONSUMERS + (group))

typedef float ScoreTile[KEY_BLOCKS][4];
typedef float OutputTile[HEAD_DIM / 8][4];
typedef u32 Weights[KEY_BLOCKS / 2][4];

// Shared memory: tiles, then the pieces of work, then mbarriers.
#define Q_TILE 0
#define K_TILES TILE_BYTES(TILE_M)
#define V_TILES (K_TILES + STAGES * TILE_BYTES(TILE_N))
#define OUTPUT_TILE (V_TILES + STAGES * TILE_BYTES(TILE_N))
#define LETTERS (OUTPUT_TILE + TILE_BYTES(TILE_M))
#define MBARRIERS (LETTERS + LETTERS_BYTES)
#define Q_FULL MBARRIERS
#define Q_EMPTY (MBARRIERS + 8)
#define K_FULL(stage) (MBARRIERS + 16 + 8 * (stage))
#define K_EMPTY(stage) (K_FULL(STAGES) + 8 * (stage))
#define V_FULL(stage) (K_EMPTY(STAGES) + 8 * (stage))
#define V_EMPTY(stage) (V_FULL(STAGES) + 8 * (stage))

// One thread: brings the queries of each piece, then its keys and values in the order in which they are used.
DEVICE void produce(const Launch &launch) {
    const Params &p = launch.p;
    Ring<STAGES> k_ring = {0}, v_ring = {0};
    u32 q_parity = 0;
    Letters letters = Letters::of(LETTERS);
    Piece piece;
    for (; Piece::of(launch, letters.ring.count, piece); letters.next()) {
        int first = (launch.tiles - 1 - piece.tile) * TILE_M;
        letters.begin();
        letters.write(0, first);
        letters.write(1, piece.head);
        letters.write(2, piece.batch);
        letters.send();
        int key_head = piece.head / launch.group;
        Mask mask = Mask::of(p, piece.batch);
        KeyTiles<TILE_N> tiles = KeyTiles<TILE_N>::of(mask, first, min_(first + TILE_M, p.query_len));
        auto bring = [&](const TensorMap &map, u32 to, int rows, u32 full, int row, int head) {
            mbarrier_expect(full, BOXES * BOX_BYTES(rows));
            UNROLL for (int box = 0; box < BOXES; box++)
                tensor_load(to + box * BOX_BYTES(rows), map, full, 64 * box, row, head, piece.batch);
        };
        auto bring_keys = [&](int n) {
            mbarrier_wait(shared_address(K_EMPTY(k_ring.stage())), k_ring.parity() ^ 1);
            bring(launch.k, shared_address(K_TILES + k_ring.stage() * TILE_BYTES(TILE_N)), TILE_N,
                  shared_address(K_FULL(k_ring.stage())), tiles.key(n), key_head);
            k_ring.advance();
        };
        auto bring_values = [&](int n) {
            mbarrier_wait(shared_address(V_EMPTY(v_ring.stage())), v_ring.parity() ^ 1);
            bring(launch.v, shared_address(V_TILES + v_ring.stage() * TILE_BYTES(TILE_N)), TILE_N,
                  shared_address(V_FULL(v_ring.stage())), tiles.key(n), key_head);
            v_ring.advance();
        };
        if (tiles.count == 0) continue;
        mbarrier_wait(shared_address(Q_EMPTY), q_parity ^ 1);
        bring(launch.q, shared_address(Q_TILE), TILE_M, shared_address(Q_FULL), first, piece.head);
        q_parity ^= 1;
        bring_keys(0);
        UNROLL_BY(1) for (int n = 1; n < tiles.count; n++) {
            bring_keys(n);
            bring_values(n - 1);
        }
        bring_values(tiles.count - 1);
    }
    // No more.
    letters.begin();
    letters.write(0, -1);
    letters.send();
}

// The rows that a thread has parts of, 8 apart, and what they see.
struct Rows {
    int query, first[2], last[2];
    // First and last keys that every query of the warpgroup sees.
    int all_first, all_last;

    DEVICE Rows of(const Mask &mask, int group_first) {
        Rows rows;
        rows.query = group_first + thread_index() % WARPGROUP / 32 * 16 + thread_index() % 32 / 4;
        UNROLL for (int half = 0; half < 2; half++) {
            rows.first[half] = mask.first_key(rows.query + 8 * half);
            rows.last[half] = mask.last_key(rows.query + 8 * half);
        }
        rows.all_first = mask.first_key(min_(group_first + 64, mask.query_len) - 1);
        rows.all_last = mask.last_key(group_first);
        return rows;
    }
};

// Cap and ALiBi, then, if the tile of keys from `tile_key` on is masked, -infinity for what the mask hides.
DEVICE void finish_scores(ScoreTile &scores, const Scores &how, const Mask &mask, const Rows &rows, int tile_key, bool masked) {
    int key = tile_key + thread_index() % 4 * 2;
    if (SCORES == ALIBI && mask.ordered) {
        // What is seen lies before, so that a bias rises evenly from key to key: two operations for each score.
        UNROLL for (int i = 0; i < 4; i++) {
            float bias = -how.slope * (float)(rows.query + 8 * (i / 2) + mask.offset - key - i % 2);
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                scores[n][i] = fma_(scores[n][i], how.scale, fma_(how.slope, (float)(8 * n), bias));
        }
    } else if (SCORES != PLAIN) {
        UNROLL for (int i = 0; i < 4; i++) {
            float distance = (float)(rows.query + 8 * (i / 2) + mask.offset - key - i % 2), bend;
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++) scores[n][i] = how.score(scores[n][i], distance - 8 * n, bend);
        }
    }
    if (!masked) return;
    UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
        UNROLL for (int i = 0; i < 4; i++)
            if (!mask.sees(rows.first[i / 2], rows.last[i / 2], key + 8 * n + i % 2)) scores[n][i] = -infinity();
}

// The softmax of a thread's two rows so far.
struct Softmax {
    float largest[2], sum[2];

    // Raises the maxima where scores outgrow them; then `shrink` is what sums under the old ones are to be multiplied by. After
    // a tile that is not masked every maximum is finite.
    MEMBER bool raise(const ScoreTile &scores, float (&shrink)[2], float factor, bool masked) {
        float found[2];
        bool outgrown = false;
        UNROLL for (int half = 0; half < 2; half++) {
            float most = -infinity();
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                most = max_(most, max_(scores[n][2 * half], scores[n][2 * half + 1]));
            most = max_(most, shuffle_xor(most, 1));
            most = max_(most, shuffle_xor(most, 2));
            found[half] = max_(most, largest[half]);
            outgrown = outgrown || (most - largest[half]) * factor > SLACK;
            shrink[half] = 1.0f;
        }
        outgrown = any_lane(outgrown);
        if (!outgrown) return false;
        UNROLL for (int half = 0; half < 2; half++) {
            if (!masked || found[half] != -infinity()) shrink[half] = exp2_fast((largest[half] - found[half]) * factor);
            largest[half] = found[half];
            sum[half] *= shrink[half];
        }
        return true;
    }

    // Scores become weights, in float32, and are added up.
    MEMBER void weigh(ScoreTile &scores, float factor, bool masked) {
        UNROLL for (int half = 0; half < 2; half++) {
            // A row that has seen nothing yet has only scores of -infinity, whose weight is zero under any finite maximum.
            float below = masked && largest[half] == -infinity() ? 0.0f : -largest[half] * factor;
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                UNROLL for (int i = 0; i < 2; i++) {
                    float weight = exp2_fast(fma_(scores[n][2 * half + i], factor, below));
                    scores[n][2 * half + i] = weight;
                    sum[half] += weight;
                }
        }
    }
};

DEVICE void scale_rows(OutputTile &output, const float (&factor)[2]) {
    UNROLL for (int n = 0; n < HEAD_DIM / 8; n++)
        UNROLL for (int i = 0; i < 4; i++) output[n][i] *= factor[i / 2];
}

// scores = q k^T: starts it.
DEVICE void start_scores(ScoreTile &scores, u64 q, u64 k) {
    wgmma_fence();
    multiply_shared<false, false, false>(scores, q, k);
    UNROLL for (int step = 1; step < HEAD_DIM / 16; step++)
        multiply_shared<true, false, false>(scores, columns_on<TILE_M>(q, step), columns_on<TILE_N>(k, step));
    wgmma_commit();
}

// output += weights v: starts it.
DEVICE void start_output(OutputTile &output, const Weights &weights, u64 v) {
    wgmma_fence();
    UNROLL for (int step = 0; step < TILE_N / 16; step++) multiply_registers<true, true>(output, weights[step], rows_on(v, step));
    wgmma_commit();
}

DEVICE void consume(const Launch &launch, int group) {
    const Params &p = launch.p;
    int lane = thread_index() % 32, next_group = group + 1 == CONSUMERS ? 0 : group + 1;
    Ring<STAGES> k_ring = {0}, v_ring = {0};
    u32 q_parity = 0;
    // Each warp tells the producer that it is done with a tile.
    auto release = [&](u32 empty) {
        warp_barrier();
        if (lane == 0) mbarrier_arrive(shared_address(empty));
    };
    auto keys = [&] {
        mbarrier_wait(shared_address(K_FULL(k_ring.stage())), k_ring.parity());
        return descriptor(shared_address(K_TILES + k_ring.stage() * TILE_BYTES(TILE_N)), 0);
    };
    auto values = [&] {
        mbarrier_wait(shared_address(V_FULL(v_ring.stage())), v_ring.parity());
        return descriptor(shared_address(V_TILES + v_ring.stage() * TILE_BYTES(TILE_N)), BOX_BYTES(TILE_N));
    };
    auto release_keys = [&] {
        release(K_EMPTY(k_ring.stage()));
        k_ring.advance();
    };
    auto release_values = [&] {
        release(V_EMPTY(v_ring.stage()));
        v_ring.advance();
    };
    // The first turn is the first warpgroup's.
    if (next_group == 0) group_arrive(TURN(0), 2 * WARPGROUP);
    Letters letters = Letters::of(LETTERS);
    for (;;) {
        letters.receive();
        int first = letters.word(0), head = letters.word(1), batch = letters.word(2);
        warp_barrier();
        if (lane == 0) letters.finish();
        letters.next();
        if (first < 0) break;
        int group_first = first + 64 * group;
        Mask mask = Mask::of(p, batch);
        Scores how = Scores::of(p, head);
        KeyTiles<TILE_N> tiles = KeyTiles<TILE_N>::of(mask, first, min_(first + TILE_M, p.query_len));
        Rows rows = Rows::of(mask, group_first);
        Softmax softmax = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        OutputTile output;
        clear(output);
        if (tiles.count > 0) {
            ScoreTile scores;
            Weights weights;
            float shrink[2];
            u64 q = descriptor(shared_address(Q_TILE + group * BOX_BYTES(64)), 0);
            mbarrier_wait(shared_address(Q_FULL), q_parity);
            q_parity ^= 1;
            u64 k = keys();
            start_scores(scores, q, k);
            wgmma_wait<0>();
            hold(scores);
            release_keys();
            finish_scores(scores, how, mask, rows, tiles.key(0), true);
            softmax.raise(scores, shrink, how.factor, true);
            softmax.weigh(scores, how.factor, true);
            pack_factor(weights, scores);
            // The next tile of keys is there, but for the last.
            if (tiles.count > 1) k = keys();
            auto step = [&](bool masked, int n) INLINED {
                group_barrier(TURN(group), 2 * WARPGROUP);
                hold(output);
                start_scores(scores, q, k);
                u64 v = values();
                start_output(output, weights, v);
                group_arrive(TURN(next_group), 2 * WARPGROUP);
                wgmma_wait<1>();
                hold(scores);
                release_keys();
                finish_scores(scores, how, mask, rows, tiles.key(n), masked);
                bool raised = softmax.raise(scores, shrink, how.factor, masked);
                softmax.weigh(scores, how.factor, masked);
                // Sums of weights are never negative, which the assembler does not know: whether there are more keys to be
                // waited for hangs on every exponential. Else it moves them behind the wait for products that follows, and
                // nothing would be under way while they are computed.
                int never = softmax.sum[0] + softmax.sum[1] < 0.0f;
                if (n + 1 < tiles.count - never) k = keys();
                wgmma_wait<0>();
                hold(output);
                release_values();
                if (raised) scale_rows(output, shrink);
                pack_factor(weights, scores);
            };
            VisibleTiles whole = tiles.all_visible(mask, rows.all_first, rows.all_last);
            int n = 1;
            UNROLL_BY(1) for (int part = 0; part < 2; part++) {
                int whole_end = part ? whole.end : whole.sinks_end, end = part ? tiles.count : whole.first;
                UNROLL_BY(1) for (; n < whole_end; n++) step(false, n);
                UNROLL_BY(1) for (; n < end; n++) step(true, n);
            }
            release(Q_EMPTY);
            u64 v = values();
            hold(output);
            start_output(output, weights, v);
            wgmma_wait<0>();
            hold(output);
            release_values();
        }
        float inverse[2];
        UNROLL for (int half = 0; half < 2; half++) {
            float total = softmax.sum[half];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            inverse[half] = total == 0.0f ? 0.0f : 1.0f / total;
            int row = rows.query + 8 * half;
            float log_sum = total == 0.0f ? -infinity() : LN_2 * (softmax.largest[half] * how.factor + log2_fast(total));
            long long at = ((long long)batch * p.query_heads + head) * p.query_len + row;
            if (lane % 4 == 0 && row < p.query_len) store_float((float *)p.lse + at, log_sum);
        }
        // The copy engine has read what the piece before left in this tile.
        u32 tile = shared_address(OUTPUT_TILE + group * TILE_BYTES(64));
        bool stores = thread_index() % WARPGROUP == 0;
        if (stores) bulk_wait_read();
        group_barrier(OWN(group), WARPGROUP);
        u32 rounded[HEAD_DIM / 16][4];
        scale_rows(output, inverse);
        pack_factor(rounded, output);
        store_factor<64>(tile, 0, rounded);
        async_fence();
        group_barrier(OWN(group), WARPGROUP);
        if (stores) {
            UNROLL for (int box = 0; box < BOXES; box++)
                tensor_store(launch.output, tile + box * BOX_BYTES(64), 64 * box, group_first, head, batch);
            bulk_commit();
        }
    }
    if (thread_index() % WARPGROUP == 0) bulk_wait_read();
}

KERNEL(THREADS, 1) attention_forward(GRID_CONSTANT const Launch launch) {
    int group = warpgroup_index();
    if (thread_index() == 0) {
        Letters::of(LETTERS).init(4 * CONSUMERS);
        mbarrier_init(shared_address(Q_FULL), 1);
        mbarrier_init(shared_address(Q_EMPTY), 4 * CONSUMERS);
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(shared_address(K_FULL(stage)), 1);
            mbarrier_init(shared_address(V_FULL(stage)), 1);
            mbarrier_init(shared_address(K_EMPTY(stage)), 4 * CONSUMERS);
            mbarrier_init(shared_address(V_EMPTY(stage)), 4 * CONSUMERS);
        }
        mbarrier_init_fence();
    }
    barrier();
    if (group == 0) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (thread_index() == 0) produce(launch);
    } else {
        more_registers<CONSUMER_REGISTERS>();
        consume(launch, group - 1);
    }
}
