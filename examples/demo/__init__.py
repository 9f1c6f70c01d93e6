"""`make demo`: a real engine, a real small model and real text, with and without radixkv.

Start reading in `__main__.py`.
"""
