// A splice without the member that says where rows come from.
// EXPECT: sp::fusion: a splice says where the rows of the fused stream come from: give it pieces\(sp::splice_sample const&, Add&& add\) const
#include <sp/collective/solo.hpp>
#include <sp/fusion.hpp>

#ifdef SP_FAIL
#define PIECES rows
#else
#define PIECES pieces
#endif

struct images_first {
  template <class Add>
  void PIECES(sp::splice_sample const& s, Add&& add) const {
    add(sp::fused_piece{sp::row_source::visual, 0, s.rows()});
  }
};

int main() {
  sp::fusion const fusion(sp::solo{}, images_first{});
  return fusion.group().size() - 1;
}
