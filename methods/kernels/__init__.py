"""Operations with an implementation of our own, because it trains faster than PyTorch's."""
