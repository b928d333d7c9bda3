from typing import final

@final
class DiskReader: ...
