// What a launch of generation 2 is told, field by field as `Launch` in src/cuda/hopper/launch.rs, where each is described.

struct Launch {
    TensorMap q, k, v, output, grad_output, dq_sum;
    Params p;
    int *turns;
    int heads, tiles, section, group;
    int planes, section_pieces, pieces, shortest_first;
};

// The pieces of a block of a grid that stays: one from every round of as many pieces as there are blocks, in turns from the
// front and from the back, since pieces become shorter. A piece is a tile of a plane, which is a head of a sequence. Planes
// come in sections whose memory fits into the L2 cache; within a section the first tiles of all planes come first.
struct Piece {
    int tile, head, batch;

    // The block's piece of a round; false if there is none, and then there is none in later rounds.
    DEVICE bool of(const Launch &launch, u32 round, Piece &piece) {
        u32 from_front = block_x(), place = round & 1 ? grid_x() - 1 - from_front : from_front;
        u32 number = round * grid_x() + place;
        if (number >= (u32)launch.pieces) return false;
        u32 section = number / (u32)launch.section_pieces;
        number -= section * launch.section_pieces;
        u32 plane = section * launch.section, width = min_(launch.section, launch.planes - (int)plane);
        piece.tile = number / width;
        plane += number - piece.tile * width;
        piece.batch = plane / (u32)launch.heads;
        piece.head = plane - piece.batch * launch.heads;
        return true;
    }
};

// What one thread tells the others: words in shared memory, two letters deep. An mbarrier says that a letter has come, another
// that everyone has read it.
#define LETTER_WORDS 8
#define LETTERS_BYTES (2 * (4 * LETTER_WORDS + 16))

struct Letters {
    u32 at;
    Ring<2> ring;

    DEVICE Letters of(u32 byte) { return {shared_address(byte), {0}}; }
    MEMBER u32 letter() const { return at + ring.stage() * 4 * LETTER_WORDS; }
    MEMBER u32 come() const { return at + 8 * LETTER_WORDS + 8 * ring.stage(); }
    MEMBER u32 read() const { return come() + 16; }

    // By one thread; `readers` is how often `finish` is called for each letter.
    MEMBER void init(int readers) const {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(at + 8 * LETTER_WORDS + 8 * i, 1);
            mbarrier_init(at + 8 * LETTER_WORDS + 8 * i + 16, readers);
        }
    }
    // The writer waits before its first word and sends after its last.
    MEMBER void begin() const { mbarrier_wait(read(), ring.parity() ^ 1); }
    MEMBER void write(int place, int word) const { store_shared_word(letter() + 4 * place, (u32)word); }
    MEMBER void send() const { mbarrier_arrive(come()); }
    MEMBER void receive() const { mbarrier_wait(come(), ring.parity()); }
    MEMBER int word(int place) const { return load_shared_int(letter() + 4 * place); }
    // By one thread for all that have read before it.
    MEMBER void finish() const { mbarrier_arrive(read()); }
    MEMBER void next() { ring.advance(); }
};

// Turns at adding to dq: two numbers for each tile of queries of each head. The first is the next tile of keys, from the last
// that the queries visit to the first, with its sign turned, so that it rises; the second the first tile without sinks.
DEVICE u32 turn_of(const Params &p, u32 tile_size, int head, int batch, int tile) {
    return (batch * p.query_heads + head) * (p.padded_query_len / tile_size) + tile;
}
struct Turns {
    int next, first;

    // Before anyone has added to a tile of QUERIES from `query` on.
    template <int QUERIES, int KEYS> DEVICE Turns of(const Mask &mask, int query) {
        KeyTiles<KEYS> tiles = KeyTiles<KEYS>::of(mask, query, query + QUERIES);
        return {tiles.count > 0 ? -(tiles.key(tiles.count - 1) / KEYS) : 0, tiles.first};
    }
    // How far the tile of KEYS whose turn it was has the first number rise: after the first without sinks come those with sinks.
    template <int KEYS> DEVICE int rise(const Params &p, int tile, int first) {
        return tile == first ? tile + 1 - min_((p.sinks + KEYS - 1) / KEYS, tile) : 1;
    }
};
