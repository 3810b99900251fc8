/* What components read of a model file: settings and weights, checked.
 *
 * After the first failure each function returns something harmless of the size that was
 * asked for, so that a component is written down without checks; whoever built it looks
 * at the status once, before the component is used.
 */
#ifndef GQ_ASR_LOADER_H
#define GQ_ASR_LOADER_H

#include <string>
#include <vector>

#include "file/gguf.h"
#include "layers/matrix.h"
#include "status.h"

namespace asr {

class Loader {
  public:
    Loader(const Gguf &file, Status &status) : file_(file), status_(status) {}

    bool ok() const { return status_.ok(); }
    /* Refuse the file; arguments as printf's. */
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    void refuse(const char *format, ...);

    /* --- settings: the value "gqasr." + key --- */
    bool has(const std::string &key) const;
    /* A whole number from `least` to `most`; `least` after a failure. */
    int64_t number(const std::string &key, int64_t least, int64_t most);
    /* An array of whole numbers, of size `count`. */
    std::vector<int64_t> numbers(const std::string &key, int64_t count, int64_t least,
                                 int64_t most);
    bool flag(const std::string &key);
    std::string text(const std::string &key);
    std::vector<Text> texts(const std::string &key);

    /* --- weights --- */
    bool has_tensor(const std::string &name) const;
    /* Floats (size), all of them finite; the size is any for -1. `found` receives it. */
    const float *floats(const std::string &name, int64_t size, int64_t *found = nullptr);
    /* A matrix with its bias (rows) where the file has one: packed, or float. Sizes are
     * any for -1. */
    Matrix matrix(const std::string &name, int64_t rows, int64_t cols);

  private:
    const Gguf::Value *value(const std::string &key, const char *what);

    const Gguf &file_;
    Status &status_;
};

}  // namespace asr

#endif
