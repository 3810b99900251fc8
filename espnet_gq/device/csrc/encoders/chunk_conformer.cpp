/* The encoder `chunk_conformer`: that of ESPnet's second transducer task, chunk by chunk.
 *
 * A chunk is what `samples` samples complete, whatever pieces they arrive in. Its frames
 * see each other and the last `left` frames before them; its convolutions look back
 * alone. Features are subsampled together with the last `overlap` ones before them, and
 * the first and the last frame of the result are left out, as ESPnet does.
 */
#include <string.h>

#include <algorithm>

#include "encoders/encoder.h"
#include "encoders/placing.h"
#include "layers/conformer_block.h"
#include "layers/subsampling.h"

namespace asr {

namespace {

enum {
    MOST_LEFT = 1 << 14,
    MOST_OVERLAP = 1 << 10,
    MOST_SAMPLES = 1 << 24,
    MOST_LAYERS = 1000,
    MOST_UNITS = 1 << 16
};

int64_t over(int64_t n, int64_t d) { return (n + d - 1) / d; }

class ChunkConformer : public Encoder {
  public:
    std::unique_ptr<EncoderStream> start(const Compute &compute) const override;

    /* Features that `chunks` chunks complete. */
    int64_t features(int64_t chunks) const {
        const int64_t known = chunks * samples - n_fft / 2;
        return known < 0 ? 0 : known / hop + 1;
    }

    Subsampling subsampling;
    Placing placing;
    std::vector<ConformerBlock> blocks;
    LayerNorm norm;
    int64_t samples = 1, left = 0, overlap = 0;
    int64_t n_fft = 2, hop = 1; /* of the features */
};

class ChunkStream : public EncoderStream {
  public:
    ChunkStream(const ChunkConformer &encoder, const Compute &compute)
        : encoder_(encoder),
          compute_(compute),
          features_(encoder.inputs),
          past_(encoder.blocks.size()),
          places_(encoder.blocks.size()) {}

    void push(const float *x, int64_t n, Frames &out) override {
        if (n > 0) memcpy(features_.add(n), x, sizeof(float) * (size_t)(n * encoder_.inputs));
        while (!ended_) {
            const int64_t due = encoder_.features(chunks_ + 1) - before_;
            if (features_.rows() < due) return;
            chunk(due, out);
            ++chunks_;
        }
    }

    int64_t end(int64_t samples) override {
        ended_ = true;
        /* ESPnet's last chunk is as long as the others, at least, from the first sample
         * on that is not behind it. */
        const int64_t gone = samples / encoder_.samples * encoder_.samples;
        const int64_t window = encoder_.n_fft - encoder_.hop;
        const int64_t begin =
            gone > window ? (gone - window) / encoder_.hop * encoder_.hop : 0;
        return std::max<int64_t>(begin + encoder_.samples - samples, 0);
    }

    void finish(Frames &out) override {
        /* ESPnet leaves the last features out of a first chunk, even of the only one. */
        const int64_t out_of_first = over(encoder_.n_fft, encoder_.hop) / 2;
        const int64_t n = features_.rows() - (chunks_ == 0 ? out_of_first : 0);
        if (n > 0) chunk(n, out);
    }

  private:
    /* Encode the first n features, and keep the last ones of them. */
    void chunk(int64_t n, Frames &out) {
        Frames frames(encoder_.outputs);
        SubsamplingStream subsampling(encoder_.subsampling, compute_);
        subsampling.push(features_.data.data(), n, frames);
        const int64_t gone = std::max<int64_t>(n - encoder_.overlap, 0);
        features_.drop(gone);
        before_ += gone;
        const int64_t rows = frames.rows() - 2;
        if (rows <= 0) return;
        float *x = frames.row(1), *to = out.add(rows);
        encoder_.placing.place(x, rows, 0);
        place(rows);
        const int64_t zero = encoder_.left + most_ - 1;
        for (size_t i = 0; i < encoder_.blocks.size(); ++i)
            encoder_.blocks[i].step(compute_, x, rows, past_[i], encoder_.left,
                                    places_[i].data(), zero, arena_);
        encoder_.norm.apply(compute_, x, rows, to);
    }

    /* Have the encodings of the positions that `rows` frames and those before them are
     * apart, after the matrix of each block. */
    void place(int64_t rows) {
        if (rows <= most_) return;
        most_ = rows;
        Arena::Scope scope(arena_);
        const int64_t width = encoder_.outputs, count = encoder_.left + 2 * rows - 1;
        float *encoded = arena_.take(count * width);
        encoder_.placing.positions.encode(encoder_.left + rows - 1, -1, count, encoded);
        for (size_t i = 0; i < places_.size(); ++i) {
            places_[i].resize((size_t)(count * width));
            encoder_.blocks[i].attention().position.apply(compute_, encoded, count,
                                                          places_[i].data());
        }
    }

    const ChunkConformer &encoder_;
    const Compute &compute_;
    Frames features_;    /* of the next chunk, and those before it that it needs */
    int64_t before_ = 0; /* features before the first of them */
    int64_t chunks_ = 0; /* that were encoded */
    bool ended_ = false;
    int64_t most_ = 0; /* frames of a chunk that the places suffice for */
    std::vector<BlockPast> past_;
    std::vector<std::vector<float>> places_;
    Arena arena_;
};

std::unique_ptr<EncoderStream> ChunkConformer::start(const Compute &compute) const {
    return std::unique_ptr<EncoderStream>(new ChunkStream(*this, compute));
}

}  // namespace

std::unique_ptr<Encoder> load_chunk_conformer(Loader &loader, int64_t inputs) {
    std::unique_ptr<ChunkConformer> encoder(new ChunkConformer);
    encoder->inputs = inputs;
    encoder->outputs = loader.number("encoder.units", 1, MOST_UNITS);
    encoder->streams = true;
    encoder->n_fft = loader.number("features.n_fft", 2, MOST_SAMPLES);
    encoder->hop = loader.number("features.hop_length", 1, encoder->n_fft);
    encoder->samples = loader.number("encoder.chunk.samples", encoder->n_fft, MOST_SAMPLES);
    encoder->left = loader.number("encoder.chunk.left", 0, MOST_LEFT);
    encoder->overlap = loader.number("encoder.chunk.overlap", 0, MOST_OVERLAP);
    encoder->subsampling = Subsampling::load(loader, inputs, encoder->outputs);
    encoder->stride = encoder->subsampling.stride();
    encoder->placing = Placing::load(loader, encoder->outputs);
    encoder->norm = LayerNorm::load(loader, "encoder.norm", encoder->outputs);
    ConformerShape shape;
    shape.width = encoder->outputs;
    shape.attention = encoder->placing.attention();
    shape.load(loader);
    if (shape.attention != RELATIVE || !shape.macaron || !shape.convolution ||
        !shape.normalize_before || shape.concatenate)
        loader.refuse("has a chunk_conformer without relative positions, macaron, "
                      "convolution or normalization before them");
    const int64_t layers = loader.number("encoder.layers", 1, MOST_LAYERS);
    for (int64_t i = 0; i < layers && loader.ok(); ++i) {
        const std::string name = "encoder.block." + std::to_string(i);
        encoder->blocks.push_back(ConformerBlock::load(loader, name, shape));
    }
    return loader.ok() ? std::move(encoder) : nullptr;
}

}  // namespace asr
