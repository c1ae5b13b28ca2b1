// Checks of a table's tensors before a step, through torch's C interface, whose functions come by address.
// A kernel follows raw addresses: what it relies on is compared here with what was found when the row was made.

namespace {

// The columns of a table's row; engine/native/cpp.py has the same.
constexpr int64_t WEIGHT = 3, GRADIENT = 4, STEP = 5, FIRST_SLOT = 6;

// torch/csrc/inductor/aoti_torch/c/shim.h. A handle is an `at::Tensor*`, that is, a pointer to a `TensorImpl*`, which a
// Python object has `tensor` bytes from its start, and its type `type` bytes from there. The implementation has its
// dispatch keys `keys` bytes from its start; `lazy` are the keys of conjugated and negated views.
struct Torch {
  int64_t type, tensor, keys, lazy;
  int32_t (*data_ptr)(void*, void**);
  int32_t (*dtype)(void*, int32_t*);
  int32_t (*dim)(void*, int64_t*);
  int32_t (*sizes)(void*, int64_t**);
  int32_t (*strides)(void*, int64_t**);
};

// A tensor's expected form: dim, sizes, strides. Strides of dimensions of size one say nothing.
struct Form {
  int64_t dim;
  const int64_t *sizes, *strides;

  bool same_sizes(const Form& other) const {
    bool same = dim == other.dim;
    for (int64_t d = 0; same && d < dim; d++) same = sizes[d] == other.sizes[d];
    return same;
  }

  bool same_order(const Form& other) const {
    for (int64_t d = 0; d < dim; d++)
      if (sizes[d] != 1 && strides[d] != other.strides[d]) return false;
    return true;
  }

  // From the first element to the end of the last one, in elements.
  int64_t reach() const {
    int64_t last = 0;
    for (int64_t d = 0; d < dim; d++) last += (sizes[d] - 1) * strides[d];
    return last + 1;
  }
};

inline void* at(void* object, int64_t offset) { return static_cast<char*>(object) + offset; }

inline int64_t keys(const Torch& torch, void* object) {
  return *static_cast<int64_t*>(at(*static_cast<void**>(at(object, torch.tensor)), torch.keys));
}

// False for an object of another type, or a tensor of another dtype or other dispatch keys, which tell its device, its
// layout, whether it is a lazy view, and whether it was made in inference mode. Only these are asked of any layout: torch
// prints what its other functions refuse.
inline bool plain(const Torch& torch, void* object, const int64_t* record, int64_t ignored = 0) {
  if (*static_cast<int64_t*>(at(object, torch.type)) != record[0]) return false;
  int32_t dtype = -1;
  return (keys(torch, object) & ~ignored) == record[1] && torch.dtype(at(object, torch.tensor), &dtype) == 0 &&
         dtype == record[2];
}

inline bool examine(const Torch& torch, void* object, Form& form, int64_t& address) {
  void* handle = at(object, torch.tensor);
  int64_t *sizes = nullptr, *strides = nullptr;
  void* data = nullptr;
  if (torch.dim(handle, &form.dim) || torch.sizes(handle, &sizes) || torch.strides(handle, &strides)) return false;
  if (torch.data_ptr(handle, &data) || data == nullptr) return false;
  form.sizes = sizes;
  form.strides = strides;
  address = reinterpret_cast<int64_t>(data);
  return true;
}

enum Status : int8_t { FITS = 0, CHANGED = 1, TO_COPY = 2, OVERLAPS = 3 };

inline bool overlaps(int64_t begin, int64_t end, int64_t spans, const int64_t* starts, const int64_t* ends) {
  int64_t low = 0, high = spans;  // the first stretch that ends beyond `begin`
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ends[middle] > begin)
      high = middle;
    else
      low = middle + 1;
  }
  return low < spans && starts[low] < end;
}

// One row: weight, gradient, and `kept`: step count, then the slots. `record` holds the type, keys and dtype of
// each, then for each slot whether it is one number per tensor, then the form of the weight. What is written must lie
// where it lay. A gradient in another order, or a lazy view, is to be copied.
inline Status look_at_row(const Torch& torch, int64_t slots, void* weight, void* gradient, void** kept,
                          const int64_t* record, int64_t* row, double* count, int64_t width, int64_t spans,
                          const int64_t* starts, const int64_t* ends) {
  const int64_t* single = record + 3 * (3 + slots);
  const int64_t* shape = single + slots;
  const Form expected{shape[0], shape + 1, shape + 1 + shape[0]};
  Form found, form;
  int64_t address = 0;
  if (!plain(torch, weight, record) || !plain(torch, gradient, record + 3, torch.lazy)) return CHANGED;
  for (int64_t k = 0; k < 1 + slots; k++)
    if (!plain(torch, kept[k], record + 6 + 3 * k)) return CHANGED;
  if (!examine(torch, weight, found, address) || address != row[WEIGHT]) return CHANGED;
  if (!found.same_sizes(expected) || !found.same_order(expected)) return CHANGED;
  if (!examine(torch, kept[0], form, address) || address != row[STEP] || form.dim != 0) return CHANGED;
  *count = *reinterpret_cast<const float*>(address);
  for (int64_t k = 0; k < slots; k++) {
    if (!examine(torch, kept[1 + k], form, address) || address != row[FIRST_SLOT + k]) return CHANGED;
    if (single[k] ? form.dim != 0 : !(form.same_sizes(found) && form.same_order(found))) return CHANGED;
  }
  if (!examine(torch, gradient, form, address) || !form.same_sizes(found)) return CHANGED;
  row[GRADIENT] = address;
  if (overlaps(address, address + form.reach() * width, spans, starts, ends)) return OVERLAPS;
  return form.same_order(found) && !(keys(torch, gradient) & torch.lazy) ? FITS : TO_COPY;
}

// Counts a step in every row.
void advance(int64_t rows, const int64_t* table, int64_t columns) {
  for (int64_t r = 0; r < rows; r++) *reinterpret_cast<float*>(table[r * columns + STEP]) += 1.0f;
}

// Rows ahead of the present one whose objects, then whose implementations, are called into the cache.
constexpr int64_t FAR = 8, NEAR = 4;

template <class Action> inline void for_objects(void** objects, int64_t rows, int64_t slots, int64_t r, Action action) {
  if (r >= rows) return;
  action(objects[r]);
  action(objects[rows + r]);
  for (int64_t k = 0; k < 1 + slots; k++) action(objects[2 * rows + r * (1 + slots) + k]);
}

inline void fetch_ahead(const Torch& torch, void** objects, int64_t rows, int64_t slots, int64_t r) {
  for_objects(objects, rows, slots, r + FAR, [](void* object) { __builtin_prefetch(object); });
  for_objects(objects, rows, slots, r + NEAR, [&](void* object) {
    const char* implementation = *static_cast<const char**>(at(object, torch.tensor));
    for (int line = 0; line < 3; line++) __builtin_prefetch(implementation + 64 * line);
  });
}

}  // namespace

// Brings the gradients' addresses in a table up to date and reads the step counts. `objects` are the weights, then the
// gradients, then for each row what is kept; `width` is the size of a gradient's element. Returns how many rows do
// not fit; `status` says which, and why.
extern "C" int64_t look(const Torch* torch, int64_t rows, int64_t slots, void** objects, const int64_t* offsets,
                        const int64_t* records, int64_t* table, double* counts, int8_t* status, int64_t width,
                        int64_t spans, const int64_t* starts, const int64_t* ends) {
  int64_t strange = 0;
  void** kept = objects + 2 * rows;
  for (int64_t r = 0; r < rows; r++) {
    fetch_ahead(*torch, objects, rows, slots, r);
    status[r] = look_at_row(*torch, slots, objects[r], objects[rows + r], kept + r * (1 + slots), records + offsets[r],
                            table + r * (FIRST_SLOT + slots), counts + r, width, spans, starts, ends);
    strange += status[r] != FITS;
  }
  return strange;
}
