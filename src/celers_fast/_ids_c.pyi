from celers_fast._ids_py import uuid7 as uuid7
from celers_fast._ids_py import uuid7_many as uuid7_many
