// Gradients on Hopper (Shah et al. 2024, section 3 and appendix B): a block holds TILE_N keys and values of one head and walks
// over tiles of TILE_M queries of every query head that shares them. Scores and their gradients are computed transposed, keys
// by queries, so that weights and gradients are left factors of dv and dk in registers; for dq the gradients go through
// shared memory, and each tile of keys adds its part to dq in float32 by the copy engine.
//
// Of the first warpgroup one thread gives out work, one brings tiles and two add to dq; the other two compute 64 keys each.
// Grid: as many blocks as multiprocessors. With `turns` tiles of keys add to a tile of queries in a fixed order, the last tile
// of keys first, so that the result is the same bits every time; pieces are then to come in that order, shortest_first.

#define THREADS (3 * WARPGROUP)
#define QUERY_BLOCKS (TILE_M / 8)
// Of the gradients of a tile of queries a warpgroup computes 64 queries by 64 columns.
#define DQ_QUERY(group) (TILE_M == 128 ? 64 * (group) : 0)
#define DQ_COLUMN(group) (TILE_M == 128 ? 0 : 64 * (group))
#define DQ_BYTES (2 * BOX_BYTES(64))

// Whether dk of a step is under way until scores of the next are, too; with a cap there are too few registers. The product of
// the gradients comes after it, whose registers hold its left factor.
#define LATE_DK (SCORES != CAPPED)

#define CONSUMERS_BARRIER 1

typedef float ScoreTile[QUERY_BLOCKS][4];
typedef float SumTile[HEAD_DIM / 8][4];
typedef u32 Factor[QUERY_BLOCKS / 2][4];

// Shared memory: tiles, then numbers of queries, then the pieces of work, then mbarriers.
#define K_TILE 0
#define V_TILE TILE_BYTES(TILE_N)
#define Q_TILES (2 * TILE_BYTES(TILE_N))
#define G_TILES (Q_TILES + STAGES * TILE_BYTES(TILE_M))
#define DS_TILES (G_TILES + STAGES * TILE_BYTES(TILE_M))
#define DS_BYTES (TILE_M / 64 * BOX_BYTES(TILE_N))
#define DQ_TILE(group) (DS_TILES + 2 * DS_BYTES + (group) * DQ_BYTES)
#define LSE(stage) (DQ_TILE(2) + (stage) * 4 * TILE_M)
#define DELTA(stage) (LSE(STAGES) + (stage) * 4 * TILE_M)
#define LETTERS DELTA(STAGES)
#define MBARRIERS (LETTERS + LETTERS_BYTES)
#define KV_FULL MBARRIERS
#define KV_EMPTY (MBARRIERS + 8)
#define DQ_EMPTY(group) (MBARRIERS + 16 + 8 * (group))
#define DQ_FULL(group, adder) (MBARRIERS + 32 + 16 * (adder) + 8 * (group))
#define Q_FULL(stage) (MBARRIERS + 64 + 8 * (stage))
#define Q_EMPTY(stage) (Q_FULL(STAGES) + 8 * (stage))
#define G_FULL(stage) (Q_EMPTY(STAGES) + 8 * (stage))
#define G_EMPTY(stage) (G_FULL(STAGES) + 8 * (stage))

// The steps of a piece: tiles of queries that see its keys, for each query head that shares them. They stay in the letter that
// tells of them, since threads that move data have few registers.
struct Steps {
    Letters letters;

    DEVICE Steps of() { return {Letters::of(LETTERS)}; }
    MEMBER int first_key() const { return letters.word(0); }
    MEMBER int batch() const { return letters.word(1); }
    MEMBER int first_head() const { return letters.word(2); }
    MEMBER int end_head() const { return letters.word(3); }
    MEMBER int first_tile() const { return letters.word(4); }
    MEMBER int end_tile() const { return letters.word(5); }

    MEMBER void write(const Launch &launch, const Piece &piece) const {
        Mask mask = Mask::of(launch.p, piece.batch);
        int first_key = (launch.shortest_first ? launch.tiles - 1 - piece.tile : piece.tile) * TILE_N;
        letters.write(0, first_key);
        letters.write(1, piece.batch);
        letters.write(2, piece.head * launch.group);
        letters.write(3, (piece.head + 1) * launch.group);
        letters.write(4, mask.first_query(first_key) / TILE_M);
        // To the end of the tile, where keys may have ended before: turns count tiles, too, and a tile that did not come would be
        // waited for.
        int last_query = mask.last_query(first_key, first_key + TILE_N);
        letters.write(5, (last_query + TILE_M - 1) / TILE_M);
    }
    // Calls `work` with head and tile of each.
    template <class Work> MEMBER void each(Work work) const {
        UNROLL_BY(1) for (int head = first_head(); head < end_head(); head++)
            UNROLL_BY(1) for (int tile = first_tile(); tile < end_tile(); tile++) work(head, tile);
    }
};

// One thread: tells the others of each piece.
DEVICE void dispatch(const Launch &launch) {
    Piece piece;
    Steps steps = Steps::of();
    for (; Piece::of(launch, steps.letters.ring.count, piece); steps.letters.next()) {
        steps.letters.begin();
        steps.write(launch, piece);
        steps.letters.send();
    }
    // No more.
    steps.letters.begin();
    steps.letters.write(0, -1);
    steps.letters.send();
}

// One thread: brings keys and values of each piece, then queries and output gradients.
DEVICE void produce(const Launch &launch) {
    const Params &p = launch.p;
    Ring<STAGES> ring = {0};
    Steps steps = Steps::of();
    for (; steps.letters.receive(), steps.first_key() >= 0; steps.letters.finish(), steps.letters.next()) {
        auto bring = [&](const TensorMap &map, u32 to, int rows, u32 full, int row, int head) {
            UNROLL for (int box = 0; box < BOXES; box++)
                tensor_load(shared_address(to + box * BOX_BYTES(rows)), map, shared_address(full), 64 * box, row, head,
                            steps.batch());
        };
        int key_head = steps.first_head() / launch.group;
        mbarrier_wait(shared_address(KV_EMPTY), steps.letters.ring.count % 2 ^ 1);
        mbarrier_expect(shared_address(KV_FULL), 2 * TILE_BYTES(TILE_N));
        bring(launch.k, K_TILE, TILE_N, KV_FULL, steps.first_key(), key_head);
        bring(launch.v, V_TILE, TILE_N, KV_FULL, steps.first_key(), key_head);
        steps.each([&](int head, int tile) {
            long long row = ((long long)steps.batch() * p.query_heads + head) * p.padded_query_len + tile * TILE_M;
            auto bring_rows = [&](u32 full, u32 empty, const TensorMap &map, u32 to, u32 numbers_to, const void *numbers) {
                mbarrier_wait(shared_address(empty), ring.parity() ^ 1);
                mbarrier_expect(shared_address(full), TILE_BYTES(TILE_M) + 4 * TILE_M);
                bring(map, to + ring.stage() * TILE_BYTES(TILE_M), TILE_M, full, tile * TILE_M, head);
                bulk_load(shared_address(numbers_to), (const float *)numbers + row, 4 * TILE_M, shared_address(full));
            };
            u32 stage = ring.stage();
            bring_rows(Q_FULL(stage), Q_EMPTY(stage), launch.q, Q_TILES, LSE(stage), p.lse_log2);
            bring_rows(G_FULL(stage), G_EMPTY(stage), launch.grad_output, G_TILES, DELTA(stage), p.delta);
            ring.advance();
        });
    }
}

// Two threads, of which each takes every second step: add to dq what the consumers leave in shared memory. One finds out
// whether it is its turn while the other waits for its sums to be there, before it tells the next.
DEVICE void add_up(const Launch &launch, u32 adder) {
    const Params &p = launch.p;
    Ring<2> ring = {0};
    Steps steps = Steps::of();
    for (; steps.letters.receive(), steps.first_key() >= 0; steps.letters.next()) {
        steps.each([&](int head, int tile) {
            u32 parity = ring.parity(), whose = ring.stage();
            ring.advance();
            if (whose != adder) return;
            auto turn = [&] { return launch.turns + 2 * turn_of(p, TILE_M, head, steps.batch(), tile); };
            int passed_on = 0;
            if (launch.turns) {
                int mine = steps.first_key() / TILE_N;
                while (load_acquire(turn()) != -mine) continue;
                global_async_fence();
                passed_on = Turns::rise<TILE_N>(p, mine, load_int(turn() + 1));
            }
            UNROLL_BY(1) for (int group = 0; group < 2; group++) {
                mbarrier_wait(shared_address(DQ_FULL(group, adder)), parity);
                UNROLL for (int box = 0; box < 2; box++)
                    tensor_add(launch.dq_sum, shared_address(DQ_TILE(group) + box * BOX_BYTES(64)), DQ_COLUMN(group) + 32 * box,
                               tile * TILE_M + DQ_QUERY(group), head, steps.batch());
            }
            bulk_commit();
            bulk_wait_read();
            for (int group = 0; group < 2; group++) mbarrier_arrive(shared_address(DQ_EMPTY(group)));
            if (launch.turns) {
                bulk_wait();
                global_async_fence();
                add_release(turn(), passed_on);
            }
        });
        steps.letters.finish();
    }
    bulk_wait();
}

// The keys that a thread has parts of, 8 apart, and the queries that see them.
struct Columns {
    int key, last[2];
    // First and last query of those that see every key of the warpgroup.
    int all_first, all_last;

    DEVICE Columns of(const Mask &mask, int group_first) {
        Columns columns;
        columns.key = group_first + thread_index() % WARPGROUP / 32 * 16 + thread_index() % 32 / 4;
        UNROLL for (int half = 0; half < 2; half++) {
            int key = columns.key + 8 * half;
            // A key beyond the last is a row of zeros whose weight might be infinite: the mask hides it.
            columns.last[half] = key < mask.key_len ? mask.last_query(key, key + 1) : 0;
        }
        int end = group_first + 64;
        // Of the keys that are no sinks the first is the one that is forgotten first.
        int first_forgotten = group_first < mask.sinks ? min_(mask.sinks, end - 1) : group_first;
        columns.all_first = mask.first_query(end - 1);
        columns.all_last = end <= mask.key_len ? mask.last_query(first_forgotten, first_forgotten + 1) : 0;
        return columns;
    }
    MEMBER bool all_visible(int query, int query_end) const { return query >= all_first && query_end <= all_last; }
};

// Scores become weights, of which `weights` gets the rounded ones; those left in `scores` are times what the cap bends.
DEVICE void weigh(ScoreTile &scores, Factor &weights, const Scores &how, const Mask &mask, const Columns &columns, int tile_query,
                  u32 lse) {
    int first_column = thread_index() % 4 * 2;
    bool hides = !columns.all_visible(tile_query, min_(tile_query + TILE_M, mask.query_len));
    auto hidden = [&](int n, int i) {
        int query = tile_query + first_column + 8 * n + i % 2;
        return mask.before(query, columns.key + 8 * (i / 2)) | query >= columns.last[i / 2];
    };
    // The cap would make -infinity finite; else hiding first needs fewer registers.
    if (SCORES != CAPPED && hides) {
        UNROLL for (int n = 0; n < QUERY_BLOCKS; n++)
            UNROLL for (int i = 0; i < 4; i++)
                if (hidden(n, i)) scores[n][i] = -infinity();
    }
    // Sums of whole numbers, exact in float32 up to 2^24.
    float distance = (float)(tile_query + first_column + mask.offset - columns.key);
    UNROLL for (int n = 0; n < QUERY_BLOCKS; n++) {
        float exponents[2], bend[4];
        load_shared_floats(lse + 4 * (8 * n + first_column), exponents[0], exponents[1]);
        UNROLL for (int i = 0; i < 4; i++) {
            bend[i] = 1.0f;
            float score = how.score(scores[n][i], distance + (8 * n + i % 2 - 8 * (i / 2)), bend[i]);
            scores[n][i] = exp2_fast(fma_(score, how.factor, -exponents[i % 2]));
        }
        if (SCORES == CAPPED && hides) {
            UNROLL for (int i = 0; i < 4; i++)
                if (hidden(n, i)) scores[n][i] = 0.0f;
        }
        UNROLL for (int half = 0; half < 2; half++)
            weights[n / 2][n % 2 * 2 + half] = pack(scores[n][2 * half], scores[n][2 * half + 1]);
        if (SCORES == CAPPED) UNROLL for (int i = 0; i < 4; i++) scores[n][i] *= bend[i];
    }
}

// result = a b^T over the head size: starts it; rows of the result are rows of a.
DEVICE void start_products(ScoreTile &result, u64 a, u64 b) {
    wgmma_fence();
    multiply_shared<false, false, false>(result, a, b);
    UNROLL for (int step = 1; step < HEAD_DIM / 16; step++)
        multiply_shared<true, false, false>(result, columns_on<TILE_N>(a, step), columns_on<TILE_M>(b, step));
    wgmma_commit();
}

// sum += factor b: starts it.
DEVICE void start_sum(SumTile &sum, const Factor &factor, u64 b) {
    wgmma_fence();
    UNROLL for (int step = 0; step < TILE_M / 16; step++) multiply_registers<true, true>(sum, factor[step], rows_on(b, step));
    wgmma_commit();
}

// dq = ds k, 64 queries by 64 columns over the keys of the tile: starts it.
DEVICE void start_queries(float (&dq)[8][4], u64 ds, u64 k) {
    wgmma_fence();
    multiply_shared<false, true, true>(dq, ds, k);
    UNROLL for (int step = 1; step < TILE_N / 16; step++)
        multiply_shared<true, true, true>(dq, rows_on(ds, step), rows_on(k, step));
    wgmma_commit();
}

// Puts a result of 64 queries by 64 columns into two boxes of 32 float32 columns. Lanes of odd rows take columns in another
// order, so that no two lanes of one access meet in a bank.
DEVICE void store_floats(u32 to, const float (&values)[8][4]) {
    int lane = thread_index() % 32, row = thread_index() % WARPGROUP / 32 * 16 + lane / 4;
    bool odd = row % 2;
    u32 at = to + row * 128 + ((row % 8 ^ lane % 4 / 2 ^ (odd ? 4 : 0)) << 4) + lane % 2 * 8;
    UNROLL for (int n = 0; n < 8; n++)
        UNROLL for (int half = 0; half < 2; half++) {
            float first = odd ? values[n ^ 2][2 * half] : values[n][2 * half];
            float second = odd ? values[n ^ 2][2 * half + 1] : values[n][2 * half + 1];
            store_shared_floats((at ^ n % 4 * 32) + n / 4 * BOX_BYTES(64) + half * 1024, first, second);
        }
}

// Rounds a sum, times a factor, to rows of a tensor.
DEVICE void store_sum(char *plane_at, long long stride, const SumTile &sum, const Columns &columns, float factor, const Params &p) {
    int lane = thread_index() % 32;
    UNROLL for (int half = 0; half < 2; half++) {
        int row = columns.key + 8 * half;
        if (row >= p.key_len) continue;
        char *to = plane_at + 2 * row * stride;
        UNROLL for (int n = 0; n < HEAD_DIM / 8; n++)
            if (8 * n < p.head_dim)
                store_word(to + 2 * (8 * n + lane % 4 * 2), pack(sum[n][2 * half] * factor, sum[n][2 * half + 1] * factor));
    }
}

DEVICE void consume(const Launch &launch, int group) {
    const Params &p = launch.p;
    int lane = thread_index() % 32;
    Ring<STAGES> ring = {0};
    auto arrive = [&](u32 mbarrier) {
        warp_barrier();
        if (lane == 0) mbarrier_arrive(shared_address(mbarrier));
    };
    Steps steps = Steps::of();
    for (; steps.letters.receive(), steps.first_key() >= 0; steps.letters.next()) {
        Mask mask = Mask::of(p, steps.batch());
        Columns columns = Columns::of(mask, steps.first_key() + 64 * group);
        SumTile dk, dv;
        clear(dk);
        clear(dv);
        mbarrier_wait(shared_address(KV_FULL), steps.letters.ring.count % 2);
        u64 k = descriptor(shared_address(K_TILE + group * BOX_BYTES(64)), 0);
        u64 v = descriptor(shared_address(V_TILE + group * BOX_BYTES(64)), 0);
        u64 k_columns = descriptor(shared_address(K_TILE + DQ_COLUMN(group) / 64 * BOX_BYTES(TILE_N)), 0);
        // Of dk, whose product may go on into the next step.
        Factor factor;
        steps.each([&](int head, int tile) {
            u32 stage = ring.stage();
            Scores how = Scores::of(p, head);
            u32 q_tile = shared_address(Q_TILES + stage * TILE_BYTES(TILE_M));
            u32 g_tile = shared_address(G_TILES + stage * TILE_BYTES(TILE_M));
            // The parity of dq is that of the step, too; a buffer is written again two barriers later.
            u32 dq_parity = ring.count % 2 ^ 1;
            u32 ds_tile = shared_address(DS_TILES + dq_parity * DS_BYTES);
            ScoreTile scores, gradients;
            Factor weights;
            mbarrier_wait(shared_address(Q_FULL(stage)), ring.parity());
            start_products(scores, k, descriptor(q_tile, 0));
            if (LATE_DK) {
                // That of the step before is done, which may be another piece's.
                wgmma_wait<1>();
                hold(dk);
                if (ring.count > 0) arrive(Q_EMPTY(ring.stage_before()));
            }
            mbarrier_wait(shared_address(G_FULL(stage)), ring.parity());
            start_products(gradients, v, descriptor(g_tile, 0));
            wgmma_wait<1>();
            hold(scores);
            weigh(scores, weights, how, mask, columns, tile * TILE_M, shared_address(LSE(stage)));
            // Something is under way while gradients of scores become factors, too. It needs all weights: the assembler moves
            // exponentials that nothing needs behind the next wait, when nothing would be under way while they are computed.
            hold(dv);
            start_sum(dv, weights, descriptor(g_tile, BOX_BYTES(TILE_M)));
            wgmma_wait<1>();
            hold(gradients);
            UNROLL for (int n = 0; n < QUERY_BLOCKS; n++) {
                float delta[2];
                load_shared_floats(shared_address(DELTA(stage)) + 4 * (8 * n + lane % 4 * 2), delta[0], delta[1]);
                UNROLL for (int half = 0; half < 2; half++) {
                    float first = scores[n][2 * half] * (gradients[n][2 * half] - delta[0]);
                    float second = scores[n][2 * half + 1] * (gradients[n][2 * half + 1] - delta[1]);
                    factor[n / 2][n % 2 * 2 + half] = pack(first, second);
                }
            }
            store_factor<TILE_N>(ds_tile, 64 * group, factor);
            async_fence();
            group_barrier(CONSUMERS_BARRIER, 2 * WARPGROUP);
            float dq[8][4];
            start_queries(dq, descriptor(ds_tile + DQ_QUERY(group) / 64 * BOX_BYTES(TILE_N), 0), k_columns);
            hold(dk);
            start_sum(dk, factor, descriptor(q_tile, BOX_BYTES(TILE_M)));
            wgmma_wait<1>();
            hold(dv);
            hold(dq);
            arrive(G_EMPTY(stage));
            mbarrier_wait(shared_address(DQ_EMPTY(group)), dq_parity);
            store_floats(shared_address(DQ_TILE(group)), dq);
            async_fence();
            arrive(DQ_FULL(group, dq_parity ^ 1));
            if (!LATE_DK) {
                wgmma_wait<0>();
                hold(dk);
                arrive(Q_EMPTY(stage));
            }
            ring.advance();
        });
        if (LATE_DK) {
            wgmma_wait<0>();
            hold(dk);
        }
        arrive(KV_EMPTY);
        int batch = steps.batch(), head = steps.first_head() / launch.group;
        warp_barrier();
        if (lane == 0) steps.letters.finish();
        store_sum((char *)p.dk + 2 * (batch * p.dk_strides.batch + head * p.dk_strides.head), p.dk_strides.row, dk, columns, p.scale,
                  p);
        store_sum((char *)p.dv + 2 * (batch * p.dv_strides.batch + head * p.dv_strides.head), p.dv_strides.row, dv, columns, 1.0f,
                  p);
    }
}

KERNEL(THREADS, 1) attention_keys(GRID_CONSTANT const Launch launch) {
    int group = warpgroup_index();
    if (thread_index() == 0) {
        // Eight warps of consumers, and the three threads that move data.
        Letters::of(LETTERS).init(8 + 3);
        mbarrier_init(shared_address(KV_FULL), 1);
        mbarrier_init(shared_address(KV_EMPTY), 8);
        for (int other = 0; other < 2; other++) {
            for (int adder = 0; adder < 2; adder++) mbarrier_init(shared_address(DQ_FULL(other, adder)), 4);
            mbarrier_init(shared_address(DQ_EMPTY(other)), 1);
        }
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(shared_address(Q_FULL(stage)), 1);
            mbarrier_init(shared_address(G_FULL(stage)), 1);
            mbarrier_init(shared_address(Q_EMPTY(stage)), 8);
            mbarrier_init(shared_address(G_EMPTY(stage)), 8);
        }
        mbarrier_init_fence();
    }
    barrier();
    if (group == 0) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (thread_index() == 0) produce(launch);
        else if (thread_index() == 32) dispatch(launch);
        // By constants: what is worked out of a thread's number here is kept for the consumers, too, who have no register for it.
        else if (thread_index() == 64) add_up(launch, 0);
        else if (thread_index() == 96) add_up(launch, 1);
    } else {
        more_registers<CONSUMER_REGISTERS>();
        consume(launch, group - 1);
    }
}
