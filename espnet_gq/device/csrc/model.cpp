#include "model.h"

#include <string.h>

#include "file/sha256.h"

namespace asr {

namespace {

enum { VERSION = 1, DIGITS = 64 };

}  // namespace

void Model::load(Status &status) {
    file.read(bytes.data(), bytes.size(), status);
    if (!status.ok()) return;
    const Gguf::Value *kind = file.value("general.architecture");
    if (!kind || kind->type != Gguf::STRING || Gguf::string(*kind).copy() != "gqasr") {
        status.fail(GQ_ASR_BAD_MODEL,
                    "the file is GGUF of another architecture; allowed: gqasr, which "
                    "espnet-gq export writes");
        return;
    }
    Loader loader(file, status);
    const int64_t version = loader.number("version", 0, 1 << 30);
    if (loader.ok() && version != VERSION) {
        loader.refuse("has version %lld; this library reads version %d",
                      (long long)version, VERSION);
        return;
    }
    features.reset(new Features(loader));
    vocabulary.reset(new Vocabulary(loader));
    if (!status.ok()) return;
    encoder = load_encoder(loader, features->mels);
    if (!encoder) return;
    const std::string output = loader.text("output");
    if (output == "transducer")
        transducer = Transducer::load(loader, encoder->outputs, vocabulary->size());
    else if (output == "ctc")
        ctc = Ctc::load(loader, encoder->outputs, vocabulary->size());
    else
        loader.refuse("has the output %s, which this version lacks; it has: transducer, "
                      "ctc",
                      quoted(output.data(), output.size()).text);
}

void Model::verify(Status &status) const {
    /* The checksum is that of the file with zeros in the checksum's own place. */
    Loader loader(file, status);
    const std::string expected = loader.text("checksum");
    if (!status.ok()) return;
    if (expected.size() != DIGITS) {
        loader.refuse("has a checksum that is none");
        return;
    }
    const uint8_t *digits = file.value("gqasr.checksum")->data + 8;
    const uint8_t *end = bytes.data() + bytes.size();
    uint8_t zeros[DIGITS];
    memset(zeros, '0', DIGITS);
    Sha256 digest;
    char found[DIGITS + 1];
    digest.update(bytes.data(), (size_t)(digits - bytes.data()));
    digest.update(zeros, DIGITS);
    digest.update(digits + DIGITS, (size_t)(end - digits) - DIGITS);
    digest.finish(found);
    if (expected != found)
        status.fail(GQ_ASR_BAD_MODEL, "the checksum does not match: the file is damaged");
}

std::unique_ptr<Search> Model::search(const Compute &compute, int64_t beam) const {
    if (ctc) return beam > 1 ? prefix_ctc(*ctc, compute, beam) : greedy_ctc(*ctc, compute);
    return beam > 1 || !transducer->greedy ? beam_transducer(*transducer, compute, beam)
                                           : greedy_transducer(*transducer, compute);
}

}  // namespace asr
