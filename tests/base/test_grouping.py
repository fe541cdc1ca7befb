from honest_persona.base.grouping import grouped


def test_keys_and_items_keep_their_order():
    assert list(grouped([3, 1, 4, 1, 6], lambda n: n % 2 == 0).items()) == [(False, [3, 1, 1]), (True, [4, 6])]
    assert grouped([], len) == {}
