from typing import final

@final
class RangeLock:
    def __new__(cls) -> RangeLock: ...
